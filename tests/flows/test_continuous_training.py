"""The circle on a small repository: a better model is promoted, a worse one never, whatever is killed in between."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State

from components.inference import pointer
from components.inference.traffic import Traffic
from components.inference.traffic_tables import database
from flows.releases import registry
from tests.flows.circle import NAME, PARAMS, Users, serving, words
from tests.flows.tools import commit, git, start, status, until


def run(root: Path) -> State:
    from flows.continuous_training import continuous_training

    return continuous_training(NAME, repo=str(root), return_state=True)


def arrive(root: Path, text: str, name: str = "first.jsonl") -> None:
    (root / "incoming" / name).write_text(text)


def champion(root: Path) -> str:
    found = pointer.read(serving(root) / f"{NAME}.json")
    pointer.verify(found.champion)
    assert found.challenger is None
    assert registry.served(root, NAME, "champion") == found.champion.version
    assert registry.served(root, NAME, "challenger") is None
    return found.champion.version


def versions(root: Path) -> list[str]:
    return [each.version for each in registry.versions(root, NAME)]


def experiments(root: Path) -> list[tuple[str, str]]:
    with Traffic(database(serving(root))) as traffic:
        return [(row["state"], row["verdict"]["decision"]) for row in traffic.experiments(NAME)]


@pytest.mark.usefixtures("server")
def test_new_data_lead_to_a_better_champion_on_main(root: Path, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "-b", "main", "origin.git")
    git(root, "remote", "add", "origin", str(tmp_path / "origin.git"))
    git(root, "push", "-q", "origin", "main", "--tags")
    before = git(root, "rev-parse", "main")
    arrive(root, words("new", 200))
    with Users(root):
        state = run(root)
    assert (state.name, state.type.value) == ("Promoted", "COMPLETED"), state.message
    assert champion(root) == "v1.1.0"
    assert experiments(root) == [("ended", "promote")]

    commit_ = registry.commit_of(root, NAME, "v1.1.0")
    assert git(root, "rev-parse", "main").strip() == commit_
    assert git(root, "merge-base", before.strip(), commit_) == before, "main was moved forward, by the promotion alone"
    assert git(root, "status", "--porcelain") == ""
    origin = tmp_path / "origin.git"
    assert git(origin, "rev-parse", "main").strip() == commit_
    assert f"{NAME}@v1.1.0" in git(origin, "tag")
    assert any(line.strip().startswith("ct/") for line in git(origin, "branch").splitlines())
    assert status(next((root / "runs" / "continuous").iterdir())) == {}, "dvc.lock holds what the branch computed"

    again = run(root)
    assert again.name == "Known"
    assert "Promoted" in (again.message or "")

    arrive(root, words("newer", 200), "second.jsonl")  # the next generation is built on this one
    with Users(root, "newer"):
        state = run(root)
    assert state.name == "Promoted", state.message
    known = json.loads((pointer.read(serving(root) / f"{NAME}.json").champion.folder / "model.json").read_text())
    assert {word.rstrip("0123456789") for word in known} == {"old", "new", "newer"}
    (clone,) = clones(root)  # that of the generation before is gone
    new = {path.name for path in clone.glob(f"pinned/{clone.name.replace('-', '_')}/*")}
    assert new == {"second.jsonl"}, "what main has learnt is not new again, though the folder still holds it"
    assert run(root).name == "Known"
    text = (root / "continuous.yaml").read_text()
    (root / "continuous.yaml").write_text(text.replace("look: 0.3", "look: 0.4"))
    assert run(root).name == "Nothing new", "other settings make no new data of it either"


@pytest.mark.usefixtures("server")
def test_data_that_make_it_worse_are_refused_at_the_gate(root: Path) -> None:
    main = git(root, "rev-parse", "main")
    arrive(root, words("old", 200, wrong=True))
    state = run(root)
    assert state.name == "Declined"
    assert "frozen: -" in (state.message or "")
    assert champion(root) == "v1.0.0"
    assert versions(root) == ["v1.0.0"]
    assert git(root, "rev-parse", "main") == main
    assert experiments(root) == []


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_bad_data_fail_clearly_and_register_nothing(root: Path) -> None:
    arrive(root, words("new", 80) + "no line of JSON\n" * 20)
    state = run(root)
    assert state.is_failed()
    assert "20% are bad, over 10%" in (state.message or "")
    assert versions(root) == ["v1.0.0"]
    assert champion(root) == "v1.0.0"
    (root / "incoming" / "first.jsonl").unlink()
    assert run(root).name == "Nothing new"
    arrive(root, words("new", 200))
    with Users(root):
        assert run(root).name == "Promoted", "mended data are other data"


@pytest.mark.usefixtures("server")
def test_an_a_a_trial_does_not_promote(root: Path) -> None:
    """The gate lets a gain pass that users do not see: they ask about old words only."""
    text = (root / "continuous.yaml").read_text().replace("most_users: 4000", "most_users: 400")
    (root / "continuous.yaml").write_text(text)
    commit(root)
    main = git(root, "rev-parse", "main")
    arrive(root, words("new", 200))
    with Users(root, "old"):
        state = run(root)
    assert state.name == "Kept", state.message
    assert champion(root) == "v1.0.0"
    assert versions(root) == ["v1.0.0", "v1.1.0"], "what was on trial stays registered"
    assert git(root, "rev-parse", "main") == main


CALL = (
    "import sys; from flows.continuous_training import continuous_training as flow; "
    f"state = flow({NAME!r}, repo=sys.argv[1], return_state=True); print(state.name, state.message)"
)


def begin(root: Path, **env: str) -> "subprocess.Popen[str]":
    return start("-c", CALL, root, **env)


def clones(root: Path) -> list[Path]:
    return list((root / "runs" / "continuous").glob("*"))


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_and_ends_once(root: Path, tmp_path: Path, server: str) -> None:
    """kill -9 while it makes the clone, while it trains, with a version registered, in the trial, while it promotes."""
    hold, learned = tmp_path / "hold", tmp_path / "learned"
    hold.mkdir()
    learned.touch()
    env = {"HOLD": str(hold), "LEARNED": str(learned)}
    arrive(root, words("new", 200))
    pointer_file = serving(root) / f"{NAME}.json"

    def killed_when(look) -> None:
        flow = begin(root, **env)
        try:
            until(look, 120)
        finally:
            flow.kill()
            flow.communicate(timeout=60)

    killed_when(lambda: clones(root))
    (hold / "learn").touch()
    killed_when(lambda: clones(root) and "drift@text" in _lock(root))
    (hold / "learn").unlink()
    killed_when(lambda: "v1.1.0" in versions(root))
    killed_when(lambda: json.loads(pointer_file.read_text())["challenger"])
    with Users(root):
        killed_when(lambda: registry.served(root, NAME, "champion") == "v1.1.0")
        ended, _ = begin(root, **env).communicate(timeout=120)
    assert "Promoted" in ended.splitlines()[-1], ended
    assert champion(root) == "v1.1.0"
    assert versions(root) == ["v1.0.0", "v1.1.0"]
    assert experiments(root) == [("ended", "promote")]
    assert git(root, "rev-parse", "main").strip() == registry.commit_of(root, NAME, "v1.1.0")
    assert learned.read_text().count("learned") == 1, "what was trained is not trained again"
    assert len(clones(root)) == 1


def _lock(root: Path) -> str:
    path = clones(root)[0] / "dvc.lock"
    return path.read_text() if path.exists() else ""


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_a_promotion_that_main_cannot_take_is_told_once_and_ends_when_it_can(root: Path) -> None:
    """In a checkout as `make run` leaves it, whose dvc.lock is not committed, with params.yaml edited besides."""
    git(root, "rm", "-q", "--cached", "dvc.lock")
    git(root, "commit", "-q", "-m", "main holds no dvc.lock")
    before = git(root, "rev-parse", "main")
    with told(root) as said:
        (root / "params.yaml").write_text(PARAMS + "# edited\n")
        arrive(root, words("new", 200))
        with Users(root):
            state = run(root)
        assert (state.name, run(root).name) == ("Refused", "Refused")
        assert "params.yaml" in (state.message or "")
        assert [each["outcome"] for each in said] == ["Refused"]
        assert "params.yaml" in said[0]["reasons"][0]
        assert champion(root) == "v1.1.0", "it serves already"
        assert git(root, "rev-parse", "main") == before
        git(root, "checkout", "-q", "params.yaml")
        assert run(root).name == "Promoted"
        assert said[-1]["outcome"] == "Promoted"
    assert git(root, "rev-parse", "main").strip() == registry.commit_of(root, NAME, "v1.1.0")
    assert git(root, "status", "--porcelain") == " M continuous.yaml\n"


@contextmanager
def told(root: Path) -> Iterator[list[dict[str, Any]]]:
    """What an address that continuous.yaml names has got."""
    said: list[dict[str, Any]] = []

    class Ear(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Ear) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = root / "continuous.yaml"
        path.write_text(f"{path.read_text()}  notify: http://127.0.0.1:{server.server_port}/\n")
        yield said
        server.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_two_triggers_at_once_are_one_run(root: Path, tmp_path: Path) -> None:
    hold, learned = tmp_path / "hold", tmp_path / "learned"
    hold.mkdir()
    (hold / "learn").touch()
    learned.touch()
    arrive(root, words("new", 200))
    env = {"HOLD": str(hold), "LEARNED": str(learned)}
    with Users(root):
        flows = [begin(root, **env) for _ in range(2)]
        done = until(lambda: [flow for flow in flows if flow.poll() is not None], 120)
        until(lambda: clones(root), 120)
        (root / "README").write_text("main goes on meanwhile\n")
        commit(root)
        (hold / "learn").unlink()
        said = [flow.communicate(timeout=180)[0].splitlines()[-1] for flow in flows]
    assert len(done) == 1
    assert sorted(line.split()[0] for line in said) == ["Joined", "Promoted"], said
    assert learned.read_text().count("learned") == 1
    assert versions(root) == ["v1.0.0", "v1.1.0"]
    made = registry.commit_of(root, NAME, "v1.1.0")
    assert git(root, "rev-list", "--parents", "-n", "1", "main").split()[2] == made, "a merge: main had gone on"
    assert (root / "README").exists() and git(root, "status", "--porcelain") == ""
