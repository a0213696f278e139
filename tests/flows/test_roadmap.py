"""The roadmap flow: phases in order, a stop at the first that fails, fresh clones."""

from pathlib import Path

import pytest
from prefect.client.schemas.objects import State

from tests.flows.tools import Make, commit, git

FAILS = "sh -c 'exit 1'"
# phase 2 stands first and needs nothing: only the order of phases makes it wait
GRAPH = """\
stages:
  late:
    cmd: cat "$ORDER" > late.out; echo late >> "$ORDER"
    meta: {phase: 2}
    outs: [late.out]
  early:
    cmd: EARLY
    meta: {phase: 1}
    outs: [early.out]
  silent:
    cmd: echo silent >> "$ORDER"; touch silent.out
    outs: [silent.out]
"""
EARLY = 'sleep 0.3; echo early >> "$ORDER"; touch early.out'
IGNORE = "*.out\n/runs/\n.store\n"


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which stages leave their names."""
    monkeypatch.setenv("ORDER", str(tmp_path / "order"))
    return tmp_path / "order"


def run(**parameters: object) -> State:
    from flows.roadmap import roadmap

    return roadmap(**parameters, return_state=True)


@pytest.mark.usefixtures("server")
def test_phases_run_in_order_and_stages_without_one_last(make: Make, order: Path) -> None:
    root = make({"dvc.yaml": GRAPH.replace("EARLY", EARLY), ".gitignore": IGNORE})
    state = run(repo=str(root))
    assert state.is_completed()
    assert order.read_text().split() == ["early", "late", "silent"]
    assert run(repo=str(root)).is_completed()
    assert order.read_text().split() == ["early", "late", "silent"], "the second run ran nothing"


@pytest.mark.usefixtures("server")
def test_only_the_groups_that_are_named_in_the_order_of_their_phases(make: Make, order: Path) -> None:
    graph = GRAPH.replace("EARLY", EARLY).replace("{phase: ", "{group: both, phase: ")
    root = make({"dvc.yaml": graph, ".gitignore": IGNORE})
    state = run(repo=str(root), groups=["neither"])
    assert state.name == "Refused"
    assert state.message == "no stage is of group 'neither': known are both"
    assert run(repo=str(root), groups=["both"]).is_completed()
    assert order.read_text().split() == ["early", "late"]


@pytest.mark.usefixtures("server")
def test_only_the_phases_that_are_named(make: Make, order: Path) -> None:
    root = make({"dvc.yaml": GRAPH.replace("EARLY", EARLY), ".gitignore": IGNORE})
    assert run(repo=str(root), phases=[1]).is_completed()
    assert order.read_text().split() == ["early"]


@pytest.mark.usefixtures("server")
def test_a_phase_that_fails_ends_the_run(make: Make, order: Path) -> None:
    root = make({"dvc.yaml": GRAPH.replace("EARLY", FAILS), ".gitignore": IGNORE})
    state = run(repo=str(root))
    assert state.is_failed()
    assert "early: exit status 1" in (state.message or "")
    assert not order.exists()


@pytest.mark.usefixtures("server")
def test_fresh_clones_hold_the_commit_and_replace_the_last_one(
    make: Make, order: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = "import pathlib; assert pathlib.Path('params.yaml').read_text() == 'good: 1', 'params.yaml: not good'"
    files = {"params.yaml": "good: 1", "flows/stages/__init__.py": "", "flows/stages/__main__.py": checks}
    root = make({"dvc.yaml": GRAPH.replace("EARLY", EARLY), ".gitignore": IGNORE, "flows/__init__.py": "", **files})
    monkeypatch.setattr("flows.roadmap.ROOT", root)
    (root / "dvc.yaml").write_text("no graph")  # not committed
    assert run(fresh=True).is_completed()
    (first,) = (root / "runs" / "fresh").iterdir()
    assert (first / "dvc.lock").exists()
    assert not (root / "dvc.lock").exists()

    git(root, "checkout", "-q", "dvc.yaml")
    assert run(fresh=True).is_completed()
    (second,) = (root / "runs" / "fresh").iterdir()
    assert second != first
    assert order.read_text().split().count("silent") == 2, "without inputs there is no key to restore it by"

    (root / "params.yaml").write_text("bad: 1")
    commit(root)
    state = run(fresh=True)
    assert state.name == "Refused"
    assert "params.yaml: not good" in (state.message or "")
