"""Lineage, against dvc.lock read by another parser, against a database that the server's own class wrote, against an
HTML parser, and against a catalogue that takes OpenLineage events."""

import hashlib
import json
import threading
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.inference.traffic import Traffic
from flows.lineage import openlineage, view
from flows.lineage.trace import Lineage, as_dict, seen, trace
from flows.releases import registry
from flows.workspace import Refused
from tests.flows.released import NAME, release
from tests.flows.tools import commit, git


@pytest.fixture
def versioned(project: Path) -> Path:
    """v1.0.0 is `first` and champion, v1.1.0 is `third`."""
    for ref in ("first", "third"):
        registry.register(project, NAME, ref)
    registry.assign(project, NAME, "v1.0.0", "champion")
    return project


def locked(repo: Path, ref: str) -> dict[str, Any]:
    """The stages of dvc.lock at a commit, by PyYAML."""
    return yaml.safe_load(git(repo, "show", f"{ref}:dvc.lock"))["stages"]


def test_the_chain_has_what_dvc_lock_has(versioned: Path) -> None:
    found = trace(versioned, f"{NAME}@v1.1.0")
    stages = locked(versioned, "third")
    assert found.commit == git(versioned, "rev-parse", "third").strip()
    assert [step.name for step in found.steps] == ["data/extra.csv.dvc", "ingest@world", "train"]  # not ingest@other
    for step in found.steps:
        if step.name in stages:
            entry = stages[step.name]
            assert {file.path: file.hash for file in step.inputs} == {dep["path"]: dep["md5"] for dep in entry["deps"]}
            assert {file.path: file.hash for file in step.outputs} == {out["path"]: out["md5"] for out in entry["outs"]}
            assert step.command == entry["cmd"]
    assert found.steps[1].params == {"sources.world": {"path": "raw/world", "url": "https://example.org/world"}}
    assert found.steps[2].params == {"train": {"rate": 0.2}, "packages.yaml: torch": "2.11"}
    assert found.steps[2].description == "learn" and found.steps[1].description == "take a source into shards"
    assert found.model.hash == next(o["md5"] for o in stages["train"]["outs"] if o["path"] == "models/decoder")


def test_sources_are_told_from_code_and_from_what_stages_make(versioned: Path) -> None:
    found = trace(versioned, f"{NAME}@v1.0.0")
    raw = next(dep["md5"] for dep in locked(versioned, "first")["ingest@world"]["deps"] if dep["path"] == "raw/world")
    extra = yaml.safe_load((versioned / "data" / "extra.csv.dvc").read_text())["outs"][0]["md5"]
    assert {(source.place, source.hash) for source in found.sources} == {
        ("raw/world", raw),  # git holds it, and a parameter names it
        ("https://example.org/world", ""),
        ("data/extra.csv", extra),
    }
    roles = {file.path: file.role for step in found.steps for file in step.inputs}
    assert roles == {
        "raw/world": "source",
        "code/ingest.py": "code",
        "data/shards/world": "input",
        "data/extra.csv": "input",
        "code/train.py": "code",
    }


def test_from_an_answer_to_its_model_and_the_experiment(versioned: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/traffic.db"
    about = {"user": "someone", "name": NAME, "route": "/v1/completions", "status": 200, "seconds": 0.1}
    with Traffic(url) as traffic:
        traffic.add_experiment("e1", NAME, "v1.0.0", "v1.1.0")
        traffic.change_experiment("e1", state="ended", verdict={"decision": "promote"})
        traffic.add_experiment("e2", NAME, "v0.9.0", "v1.0.0")
        traffic.add_experiment("e3", "another", "v1.0.0", "v1.1.0")
        commit = git(versioned, "rev-parse", "third").strip()
        id = traffic.record(
            **about, version="v1.1.0", commit=commit, role="challenger", experiment="e1", input="secret"
        )
        traffic.flush()
    found = trace(versioned, id, url)
    assert found == Lineage(**vars(trace(versioned, f"{NAME}@v1.1.0", url)) | {"request": found.request})
    assert [row["id"] for row in found.experiments] == ["e1"]
    assert found.request and found.request["role"] == "challenger"
    assert "secret" not in json.dumps(as_dict(found)) and "someone" not in json.dumps(as_dict(found))
    assert view.trial(found, found.experiments[0]) == "e1: challenger against v1.0.0, ended promote"


def test_what_is_not_known_says_where_it_was_looked_for(versioned: Path, tmp_path: Path) -> None:
    id = "6d9cf2d2-1111-4222-8333-444455556666"
    with pytest.raises(Refused, match=f"answer {id}: name the traffic database"):
        trace(versioned, id)
    with pytest.raises(Refused, match=f"no answer {id} in the traffic database"):
        trace(versioned, id, f"sqlite:///{tmp_path}/traffic.db")
    with pytest.raises(Refused, match="the traffic database cannot be asked: .*unable to open"):
        trace(versioned, id, f"sqlite:///{tmp_path}/nowhere/traffic.db")
    with pytest.raises(Refused, match=r"no version decoder@v9\.0\.0: its versions are v1\.0\.0, v1\.1\.0"):
        trace(versioned, f"{NAME}@v9.0.0")
    with pytest.raises(Refused, match=r"no version other@\(champion\): known names are decoder"):
        trace(versioned, "other")
    assert trace(versioned, NAME).version == "v1.0.0"


def test_forward_from_a_source(versioned: Path) -> None:
    def versions(what: str) -> list[str]:
        return [each.version for each in seen(versioned, what)]

    first, third = (
        next(dep["md5"] for dep in locked(versioned, ref)["ingest@world"]["deps"] if dep["path"] == "raw/world")
        for ref in ("first", "third")
    )
    assert first != third
    assert versions(first) == ["v1.0.0"] and versions(third) == ["v1.1.0"] and versions(first[:8]) == ["v1.0.0"]
    for what in ("raw/world", "./raw/world/text", str(versioned / "raw/world"), "https://example.org/world"):
        assert versions(what) == ["v1.0.0", "v1.1.0"]
    assert versions("raw/other") == versions("raw/wor") == versions("https://example.org/w") == []
    (only, _) = seen(versioned, "raw/world")
    assert (only.step, only.place, only.hash, only.stages) == (
        "ingest@world",
        "raw/world",
        first,
        ("champion",),
    )


def test_forward_from_one_file_in_a_folder(versioned: Path) -> None:
    """The folder's list in DVC's cache says which versions had the file, and with which content."""
    before, after = (hashlib.md5(text).hexdigest() for text in (b"one scene\n", b"one scene\nand another\n"))
    shard = "data/shards/world/train/text"

    def found(what: str) -> list[tuple[str, str, str]]:
        return [(each.version, each.place, each.hash) for each in seen(versioned, what)]

    assert (("v1.0.0", shard, before) in found(before)) and {version for version, *_ in found(before)} == {"v1.0.0"}
    assert {version for version, *_ in found(after[:10])} == {"v1.1.0"}
    assert found(shard) == [("v1.0.0", shard, before), ("v1.1.0", shard, after)]
    assert [place for _, place, _ in found("data/shards/world/train")] == ["data/shards/world/train"] * 2
    assert found("data/shards/world/test") == [], "no version had such a file"
    assert {version for version, *_ in found("models/decoder/config.json")} == {"v1.0.0", "v1.1.0"}


def test_forward_leaves_out_a_version_that_does_not_read(versioned: Path) -> None:
    kept = (versioned / "dvc.lock").read_text()
    (versioned / "dvc.lock").write_text("stages: [")
    commit(versioned)
    git(versioned, "tag", "-a", "-m", "by hand", f"{NAME}@v2.0.0")
    (versioned / "dvc.lock").write_text(kept)
    said: list[str] = []
    assert [each.version for each in seen(versioned, "raw/world", said.append)] == ["v1.0.0", "v1.1.0"]
    assert len(said) == 1 and said[0].startswith(f"{NAME}@v2.0.0 is left out: commit ")


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.addresses += [value for name in ("href", "src") if (value := found.get(name))]
        self.ids |= {value for value in [found.get("id")] if value}


def test_the_page_is_whole_and_believes_nobody(versioned: Path, tmp_path: Path) -> None:
    """What people wrote into a commit, a parameter or an experiment stays text."""
    evil = "</pre><script>alert(1)</script>"
    params = (versioned / "params.yaml").read_text().replace("{rate", f"{{note: '{evil}', rate")
    (versioned / "params.yaml").write_text(params)
    release(versioned, "evil")
    git(versioned, "commit", "-q", "--amend", "-m", f"a change {evil}")
    version = registry.register(versioned, NAME)
    url = f"sqlite:///{tmp_path}/traffic.db"
    with Traffic(url) as traffic:
        traffic.add_experiment(f"e{evil}", NAME, "v1.0.0", version, {"why": evil})
    found = trace(versioned, f"{NAME}@{version}", url)
    view.write_page(found, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert "script" not in page.tags and "link" not in page.tags and "svg" in page.tags
    assert all(address.startswith("#") and address[1:] in page.ids for address in page.addresses)
    for step in found.steps:
        assert all(file.hash in text for file in (*step.inputs, *step.outputs)) and step.name in page.ids


def test_the_picture_runs_from_left_to_right_without_overlap(versioned: Path) -> None:
    picture = view.picture(trace(versioned, f"{NAME}@v1.0.0"))
    boxes = {box["whole"]: (box["x"], box["y"]) for box in picture["boxes"]}
    assert set(boxes) == {
        "raw/world",
        "https://example.org/world",
        "data/extra.csv",
        "ingest@world",
        "data/extra.csv.dvc",
        "train",
        "decoder@v1.0.0",
    }
    assert boxes["raw/world"][0] < boxes["ingest@world"][0] < boxes["train"][0] < boxes["decoder@v1.0.0"][0]
    assert len(picture["arrows"]) == 6
    wide, high = picture["w"], picture["h"]
    for (x1, y1), (x2, y2) in ((one, other) for one in boxes.values() for other in boxes.values() if one != other):
        assert abs(x1 - x2) >= wide or abs(y1 - y2) >= high
    assert all(0 <= x <= picture["width"] - wide and 0 <= y <= picture["height"] - high for x, y in boxes.values())


def test_openlineage_events_link_what_a_stage_makes_to_who_reads_it(versioned: Path, tmp_path: Path) -> None:
    found = trace(versioned, f"{NAME}@v1.1.0")
    openlineage.write(found, tmp_path / "events.jsonl")
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["job"]["name"] for event in events] == ["data/extra.csv.dvc", "ingest@world", "train"]
    assert {event["eventType"] for event in events} == {"COMPLETE"}
    last = events[-1]

    def hashes(some: list[dict[str, Any]]) -> dict[str, str]:
        return {one["name"]: one["facets"]["version"]["datasetVersion"] for one in some if one.get("facets")}

    stages = locked(versioned, "third")
    assert hashes(last["inputs"]) == {dep["path"]: dep["md5"] for dep in stages["train"]["deps"]}
    assert hashes(last["outputs"]) == {out["path"]: out["md5"] for out in stages["train"]["outs"]}
    assert hashes(events[1]["outputs"]).items() <= hashes(last["inputs"]).items()
    parameters = last["run"]["facets"]["executionParameters"]["parameters"]
    assert {each["key"]: json.loads(each["value"]) for each in parameters} == {
        "train": {"rate": 0.2},
        "packages.yaml: torch": "2.11",
    }
    assert last["job"]["facets"]["sourceCodeLocation"]["version"] == found.commit


def test_a_stage_that_two_versions_share_is_one_run(versioned: Path) -> None:
    registry.register(versioned, NAME, "second")
    one, two, three = (trace(versioned, f"{NAME}@v1.{number}.0").steps for number in (0, 2, 1))
    assert openlineage.run_id(one[1]) == openlineage.run_id(two[1]) != openlineage.run_id(three[1])
    assert len({openlineage.run_id(steps[-1]) for steps in (one, two, three)}) == 3


def test_events_reach_a_catalogue_and_a_refusal_is_told(versioned: Path) -> None:
    taken: list[tuple[str, dict[str, Any]]] = []

    class Catalogue(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            taken.append((self.path, body))
            self.send_response(400 if self.path.startswith("/closed") else 201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    found = trace(versioned, f"{NAME}@v1.0.0")
    with ThreadingHTTPServer(("127.0.0.1", 0), Catalogue) as catalogue:
        threading.Thread(target=catalogue.serve_forever).start()
        try:
            url = f"http://127.0.0.1:{catalogue.server_port}"
            assert openlineage.send(found, url) == 3
            assert [path for path, _ in taken] == ["/api/v1/lineage"] * 3
            assert taken[-1][1]["job"]["name"] == "train"
            with pytest.raises(Refused, match="took no lineage: 400"):
                openlineage.send(found, f"{url}/closed/")
        finally:
            catalogue.shutdown()
    with pytest.raises(Refused, match="took no lineage"):
        openlineage.send(found, url)
