"""Two retrained models on one main: both branches' entries stay, and what both changed is refused."""

from pathlib import Path

import pytest

from flows.continuous.merge import fast_forward, merged, three_ways
from flows.workspace import Refused, parse_yaml
from tests.flows.tools import git

PARAMS = """\
# numbers
sources:
  base: {path: base}  # old
mix: {}
learn:
  text: {source: base}
  speech: {source: base}
"""
LOCK = "schema: '2.0'\nstages:\n  ingest@base:\n    cmd: a\n"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "config", "user.name", "test")
    git(tmp_path, "config", "user.email", "test@example.org")
    change(tmp_path, "main", PARAMS, LOCK)
    return tmp_path


def change(repo: Path, branch: str, params: str, lock: str, **files: str) -> None:
    for name, text in {"params.yaml": params, "dvc.lock": lock, **files}.items():
        (repo / name).write_text(text)
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", branch)


def retrain(repo: Path, name: str) -> None:
    """A branch as continuous training makes it."""
    git(repo, "checkout", "-q", "-b", name, "begun")
    params = PARAMS.replace("  # old\n", f"  # old\n  {name}_1: {{path: pinned/{name}_1}}\n")
    params = params.replace("mix: {}", f"mix: {{{name}_1: {{old: base}}}}").replace(
        f"{name}: {{source: base}}", f"{name}: {{source: {name}_1}}"
    )
    change(repo, name, params, LOCK + f"  ingest@{name}_1:\n    cmd: b\n", **{f"{name}.dvc": "outs: []\n"})


@pytest.fixture
def two(repo: Path) -> Path:
    git(repo, "branch", "begun")
    for name in ("text", "speech"):
        retrain(repo, name)
    git(repo, "checkout", "-q", "main")
    git(repo, "merge", "-q", "--ff-only", "text")
    return repo


def test_entries_of_both_stay_with_the_comments(two: Path) -> None:
    commit = merged(two, "main", "speech", "both")
    text = git(two, "show", f"{commit}:params.yaml")
    assert "# numbers" in text and "# old" in text
    params, lock = (parse_yaml(git(two, "show", f"{commit}:{name}")) for name in ("params.yaml", "dvc.lock"))
    assert set(params["sources"]) == {"base", "text_1", "speech_1"}
    assert set(params["mix"]) == {"text_1", "speech_1"}
    assert params["learn"] == {"text": {"source": "text_1"}, "speech": {"source": "speech_1"}}
    assert set(lock["stages"]) == {"ingest@base", "ingest@text_1", "ingest@speech_1"}
    assert set(git(two, "ls-tree", "--name-only", commit).split()) == {
        "params.yaml",
        "dvc.lock",
        "text.dvc",
        "speech.dvc",
    }
    assert git(two, "rev-list", "--parents", "-n", "1", commit).split()[1:] == [
        git(two, "rev-parse", name).strip() for name in ("main", "speech")
    ]
    assert git(two, "status", "--porcelain") == "", "no work tree was touched"


def test_what_both_changed_is_refused(two: Path) -> None:
    change(two, "main", PARAMS.replace("speech: {source: base}", "speech: {source: other}"), LOCK)
    with pytest.raises(Refused, match=r"params.yaml: learn: speech: both sides changed source: merge them by hand"):
        merged(two, "main", "speech", "both")
    git(two, "reset", "-q", "--hard", "HEAD~1")
    change(two, "main", PARAMS, LOCK, **{"speech.dvc": "other\n"})
    with pytest.raises(Refused, match="both changed speech.dvc: merge them by hand"):
        merged(two, "main", "speech", "both")


def stages(text: str) -> dict[str, dict]:
    return parse_yaml(text)["stages"]


@pytest.mark.parametrize("tracked", [False, True])
def test_a_checkouts_own_lock_stays_and_learns_what_is_promoted(repo: Path, tracked: bool) -> None:
    """As `make run` leaves a checkout: dvc.lock is there, and is not what is committed, or is not committed at all."""
    if not tracked:
        git(repo, "rm", "-q", "--cached", "dvc.lock")
        git(repo, "commit", "-q", "-m", "main holds no dvc.lock")
        (repo / "dvc.lock").unlink()
    git(repo, "branch", "begun")
    retrain(repo, "text")
    git(repo, "checkout", "-q", "main")
    before = git(repo, "rev-parse", "main")
    (repo / "dvc.lock").write_text(LOCK.replace("cmd: a", "cmd: old") + "  mine:\n    cmd: c\n")
    (repo / "params.yaml").write_text("edited: {}\n")
    for _ in range(2):  # it may be tried again
        with pytest.raises(Refused, match="params.yaml"):
            fast_forward(repo, "text")
        assert git(repo, "rev-parse", "main") == before
        assert git(repo, "diff", "--cached", "--name-only") == "", "nothing is staged"
        assert "mine" in stages((repo / "dvc.lock").read_text())
    git(repo, "checkout", "-q", "params.yaml")
    fast_forward(repo, "text")
    assert git(repo, "rev-parse", "main") == git(repo, "rev-parse", "text")
    promoted = stages(git(repo, "show", "text:dvc.lock"))
    assert stages((repo / "dvc.lock").read_text()) == promoted | {"mine": {"cmd": "c"}}
    assert git(repo, "status", "--porcelain") == " M dvc.lock\n"


def test_a_lock_without_entries_of_its_own_is_clean_after_a_promotion(repo: Path) -> None:
    git(repo, "rm", "-q", "--cached", "dvc.lock")
    git(repo, "commit", "-q", "-m", "main holds no dvc.lock")
    git(repo, "branch", "begun")
    (repo / "dvc.lock").unlink()
    retrain(repo, "text")
    git(repo, "checkout", "-q", "main")
    (repo / "dvc.lock").write_text(LOCK)
    fast_forward(repo, "text")
    assert git(repo, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("ours", "theirs", "result"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 2}),
        ({"a": 1, "b": 3}, {}, {"b": 3}),  # theirs dropped a
        ({"a": 2}, {"a": 2}, {"a": 2}),
    ],
)
def test_three_ways_by_hand(ours: dict, theirs: dict, result: dict) -> None:
    three_ways({"a": 1}, ours, theirs, "f")
    assert ours == result
