"""The commands that look after versions, as a person types them."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from components.inference import pointer
from components.inference.traffic import Traffic
from flows import cli_serving
from flows.cli_production import app
from flows.releases import registry
from flows.workspace import Refused
from tests.flows.released import NAME

CONTINUOUS = """train: train.text, source: {layout: jsonl, path: incoming, splits: {train: "*"},
  fields: {text: text}, held_out: {valid: {share: 0.1}, test: {share: 0.1}}}, experiment: {
  primary: [{name: accepted, kind: rate, better: higher, effect: 0.3, baseline: 0.5}], most_users: 400, least_users: 30}
"""
DESIGN = """
primary: [{name: accepted, kind: rate, better: higher, effect: 0.3, baseline: 0.5}]
most_users: 400
least_users: 30
"""

GUARDRAILS = """
guardrails:
  - {name: failed, kind: rate, better: lower, effect: 0.02, baseline: 0.01}
  - {name: seconds, kind: mean, better: lower, effect: 0.05, deviation: 0.1}
"""


@pytest.fixture
def versioned(project: Path) -> Path:
    for ref in ("first", "third"):
        registry.register(project, NAME, ref)
    return project


def tsumugi(repo: Path, *arguments: str) -> Result:
    places = ["--repo", str(repo)] + (
        ["--serving", str(repo / ".store" / "serving")] if arguments[0] not in ("versions", "register") else []
    )
    return CliRunner().invoke(app, [*arguments, *places], catch_exceptions=False)


def test_deploy_try_promote_and_roll_back(versioned: Path) -> None:
    (versioned / "design.yaml").write_text(DESIGN)
    assert tsumugi(versioned, "deploy", NAME, "v1.0.0").stdout == "decoder: champion v1.0.0; pointer 1\n"
    tried = tsumugi(versioned, "deploy", NAME, "v1.1.0", "--share", "0.1", "--design", f"{versioned}/design.yaml")
    assert tried.stdout == "decoder: champion v1.0.0, beside it v1.1.0 (canary, 10%); pointer 2\n"
    listed = json.loads(tsumugi(versioned, "versions", "--json").stdout)
    assert [(each["version"], each["stages"]) for each in listed] == [
        ("v1.0.0", ["champion"]),
        ("v1.1.0", ["challenger"]),
    ]
    assert tsumugi(versioned, "rollback", NAME, "--challenger").stdout == "decoder: champion v1.0.0; pointer 3\n"
    assert tsumugi(versioned, "deploy", NAME, "v1.1.0").stdout == "decoder: champion v1.1.0; pointer 4\n"
    assert tsumugi(versioned, "rollback", NAME).stdout == "decoder: champion v1.0.0; pointer 5\n"
    assert pointer.read(versioned / ".store" / "serving" / "decoder.json").champion.version == "v1.0.0"
    assert "v1.1.0" in tsumugi(versioned, "versions", NAME).stdout


def test_a_version_is_registered_by_a_person(project: Path) -> None:
    assert tsumugi(project, "register", NAME, "--ref", "second").stdout.startswith("decoder@v1.0.0 is commit ")
    said = tsumugi(project, "register", NAME).stdout
    assert said.startswith("decoder@v1.1.0 is commit ") and "`tsumugi deploy decoder v1.1.0` serves it" in said
    assert tsumugi(project, "deploy", NAME, "v1.1.0").stdout == "decoder: champion v1.1.0; pointer 1\n"
    with pytest.raises(Refused, match=r"dvc\.yaml has no model 'text' under `artifacts`"):
        tsumugi(project, "register", "text")


def experiments(repo: Path) -> dict[str, dict[str, Any]]:
    with Traffic(f"sqlite:///{repo / '.store' / 'serving' / 'traffic.db'}") as traffic:
        return {row["id"]: row for row in traffic.experiments()}


def shown(repo: Path, *arguments: str) -> str:
    places = ["--serving", str(repo / ".store" / "serving")]
    return CliRunner().invoke(cli_serving.app, ["experiment", *arguments, *places], catch_exceptions=False).stdout


def ask(repo: Path, experiment: str, users: int, rates: dict[str, float]) -> None:
    """Users of both arms, each with one outcome; a rate of them is accepted."""
    with Traffic(f"sqlite:///{repo / '.store' / 'serving' / 'traffic.db'}") as traffic:
        for role, rate in rates.items():
            about = {"version": role, "commit": "c" * 40, "role": role, "experiment": experiment, "status": 200}
            for number in range(users):
                id = traffic.record(**about, user=f"{role}{number}", name=NAME, route="/", seconds=0.1)
                traffic.outcome(id, "accepted", float(number % 10 < 10 * rate))


def test_a_trial_by_hand_is_judged_and_promoted(versioned: Path) -> None:
    (versioned / "continuous.yaml").write_text(f"decoder: {{{CONTINUOUS}}}\n")
    tsumugi(versioned, "deploy", NAME, "v1.0.0")
    tsumugi(versioned, "deploy", NAME, "v1.1.0", "--share", "0.5")
    row = experiments(versioned)["decoder-v1.1.0-1"]
    assert (row["state"], row["champion"], row["challenger"]) == ("running", "v1.0.0", "v1.1.0")
    assert pointer.read(versioned / ".store" / "serving" / "decoder.json").challenger.experiment == row["id"]  # type: ignore[union-attr]
    assert "Running. Go on: nothing is decided yet." in shown(versioned, row["id"])
    ask(versioned, row["id"], 100, {"champion": 0.2, "challenger": 0.9})
    assert "Running. Promote the challenger." in shown(versioned, row["id"])
    tsumugi(versioned, "deploy", NAME, "v1.1.0")
    assert experiments(versioned)[row["id"]]["state"] == "ended"
    ask(versioned, row["id"], 100, {"champion": 0.9, "challenger": 0.1})  # what comes late changes no verdict
    assert "Ended. Promote the challenger. Ended by hand. accepted: better: 90.00%" in shown(versioned, row["id"])
    with pytest.raises(Refused, match=r"experiment decoder-v1\.1\.0-1 is decoder@v1\.1\.0's, ended: choose another id"):
        tsumugi(versioned, "deploy", NAME, "v1.1.0", "--share", "0.5", "--experiment", row["id"])


def test_a_trial_that_is_taken_back_is_stopped_and_one_that_cannot_begin_leaves_nothing(versioned: Path) -> None:
    tsumugi(versioned, "deploy", NAME, "v1.0.0")
    with pytest.raises(Refused, match=r"continuous\.yaml: .*; or name a file with the design by --design"):
        tsumugi(versioned, "deploy", NAME, "v1.1.0", "--share", "0.5")
    (versioned / "design.yaml").write_text(DESIGN)
    design = ["--design", str(versioned / "design.yaml")]
    for share, version, why in (("1", "v1.1.0", "share 1 must be in"), ("0.5", "v9.0.0", "no version decoder@v9")):
        with pytest.raises(Refused, match=why):
            tsumugi(versioned, "deploy", NAME, version, "--share", share, *design)
    assert experiments(versioned) == {}
    tsumugi(versioned, "deploy", NAME, "v1.1.0", "--share", "0.5", *design)
    with pytest.raises(Refused, match=r"v1\.1\.0 is on trial"):
        tsumugi(versioned, "deploy", NAME, "v1.0.0", "--share", "0.5", *design)
    tsumugi(versioned, "rollback", NAME, "--challenger")
    row = experiments(versioned)["decoder-v1.1.0-1"]
    assert (row["state"], row["verdict"]["decision"]) == ("ended", "stop")


def test_a_rollback_needs_no_database(
    versioned: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (versioned / "design.yaml").write_text(DESIGN)
    tsumugi(versioned, "deploy", NAME, "v1.0.0")
    tsumugi(versioned, "deploy", NAME, "v1.1.0", "--share", "0.5", "--design", f"{versioned}/design.yaml")
    monkeypatch.setenv("TSUMUGI_DATABASE", "postgresql+psycopg://nobody@127.0.0.1:9/none")
    assert tsumugi(versioned, "rollback", NAME, "--challenger").stdout == "decoder: champion v1.0.0; pointer 3\n"
    assert "experiment decoder-v1.1.0-1 is not marked as ended: the traffic database cannot be asked" in caplog.text


def test_what_an_experiment_will_need_is_said_before(tmp_path: Path) -> None:
    (tmp_path / "continuous.yaml").write_text(f"decoder: {{{CONTINUOUS}}}\n")
    options = ["--plan", "decoder", "--users-per-day", "50", "--repo", str(tmp_path)]
    rows = [line.split() for line in shown(tmp_path, *options).splitlines()]
    metric, effect, once, any_look, on_average, days = rows[1]
    assert (metric, effect) == ("accepted", "0.3")
    assert once == "72"  # (0.25 / 0.5 + 0.16 / 0.5) * ((1.960 + 0.842) / 0.3)^2
    assert int(once) < int(any_look) and int(on_average) < int(any_look) and days == f"{int(any_look) / 50:.1f}"
    assert rows[2][-1] == "enough"
    with pytest.raises(Refused, match=r"continuous\.yaml: no model 'decoders': did you mean decoder\?"):
        shown(tmp_path, "--plan", "decoders", "--repo", str(tmp_path))


def test_an_experiment_that_cannot_be_shown_is_refused_in_one_line(
    versioned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Refused, match="holds no traffic database"):
        shown(versioned)
    (versioned / "design.yaml").write_text(DESIGN)
    tsumugi(versioned, "deploy", NAME, "v1.0.0")
    tsumugi(versioned, "deploy", NAME, "v1.1.0", "--share", "0.5", "--design", f"{versioned}/design.yaml")
    assert "decoder-v1.1.0-1  decoder  v1.0.0    v1.1.0      running" in shown(versioned)
    with pytest.raises(Refused, match="no request yet: there is nothing to report"):
        shown(versioned, "decoder-v1.1.0-1", "--page", str(versioned / "page"))
    with pytest.raises(Refused, match=r"there is no experiment other: known are decoder-v1\.1\.0-1"):
        shown(versioned, "other")
    monkeypatch.setenv("TSUMUGI_DATABASE", "postgresql+psycopg://nobody@127.0.0.1:9/none")
    with pytest.raises(Refused, match="the traffic database cannot be asked: .*start it, or mend TSUMUGI_DATABASE"):
        shown(versioned)


def test_a_shadow_is_compared_with_what_it_shadows(versioned: Path) -> None:
    tsumugi(versioned, "deploy", NAME, "v1.0.0")
    (versioned / "design.yaml").write_text(DESIGN + GUARDRAILS)
    options = ("--share", "0.9", "--mode", "shadow", "--experiment", "s", "--design", f"{versioned}/design.yaml")
    said = tsumugi(versioned, "deploy", NAME, "v1.1.0", *options).stdout
    assert said == "decoder: champion v1.0.0, beside it v1.1.0 (shadow, 90%); pointer 2\n"
    about = {"user": "u", "name": NAME, "commit": "c" * 40, "route": "/v1/completions", "experiment": "s"}
    with Traffic(f"sqlite:///{versioned / '.store' / 'serving' / 'traffic.db'}") as traffic:
        for seconds, other, status in ((0.1, "a b", 200), (0.2, "b a", 200), (0.3, "a b", 500)):
            one = {"version": "v1.0.0", "role": "champion", "status": 200, "seconds": seconds}
            id = traffic.record(**about, **one, output={"text": "a b", "finish": "stop"})
            two = {"version": "v1.1.0", "role": "shadow", "status": status, "seconds": 2 * seconds}
            output = {"shadow_of": id} | ({"output": other} if status == 200 else {})
            traffic.record(**about, **two, output=output)
    assert "agreement: 50.0% of 2 answers are the same." in shown(versioned, "s")
    rows = {words[0]: words[1:3] for line in shown(versioned, "s").splitlines() if len(words := line.split()) > 2}
    assert rows["failed"] == ["0", "0.3333"] and rows["seconds"] == ["0.2", "0.3"]
    tsumugi(versioned, "deploy", NAME, "v1.1.0")
    assert experiments(versioned)["s"]["verdict"]["decision"] == "promote"


def test_trace_in_every_form(versioned: Path, tmp_path: Path) -> None:
    shown = tsumugi(
        versioned, "trace", f"{NAME}@v1.1.0", "--page", f"{tmp_path}/page.html", "--events", f"{tmp_path}/e.jsonl"
    )
    for word in ("decoder@v1.1.0", "ingest@world", "raw/world", "https://example.org/world", '{"rate": 0.2}'):
        assert word in shown.stdout
    assert (tmp_path / "page.html").stat().st_size > 5000 and len((tmp_path / "e.jsonl").read_text().splitlines()) == 3
    plain = json.loads(tsumugi(versioned, "trace", f"{NAME}@v1.1.0", "--json").stdout)
    assert [step["name"] for step in plain["steps"]][-1] == "train"
    forward = json.loads(tsumugi(versioned, "trace", "raw/world", "--forward", "--json").stdout)
    assert [each["version"] for each in forward] == ["v1.0.0", "v1.1.0"]
    assert "decoder@v1.0.0" in tsumugi(versioned, "trace", "raw/world", "--forward").stdout
    with pytest.raises(Refused, match="no registered version has seen raw/nothing"):
        tsumugi(versioned, "trace", "raw/nothing", "--forward")
