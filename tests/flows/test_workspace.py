"""Clones under runs/: what they take along, what they share, what they refuse."""

import subprocess
from pathlib import Path

import pytest
from dvc.config import Config
from dvc.repo import Repo
from ruamel.yaml import YAML

from flows import workspace
from flows.workspace import Refused

PARAMS = """\
# every number
sources:
  world:
    path: world  # generated
    share: 0.1  # of the records
train:
  steps: 10  # batches
"""
DVC = """\
stages:
  ingest:
    foreach: ${sources}
    do:
      cmd: sh copy.sh ${item.path} ${key}.out
      deps: ["${item.path}"]
      params: ["sources.${key}"]
      outs: ["${key}.out"]
"""
FILES = {
    "params.yaml": PARAMS,
    "dvc.yaml": DVC,
    "copy.sh": 'cp "$1" "$2" && echo "$2" >> "$RAN"',
    "presets/tiny.yaml": "train: {steps: 22}",
    "world": "w",
    ".gitignore": "/runs/\n.store\n/data\n*.out\n",
    ".dvcignore": "",
    ".dvc/config": "[core]\n    analytics = false\n",
    ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root, "init", "-q")
    git(root, "add", ".")
    commit(root)
    return root


def repro(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dvc repro`, without the seconds that another process takes to import DVC."""
    monkeypatch.setenv("RAN", str(folder.parent / "ran.out"))
    monkeypatch.chdir(folder)
    with Repo() as repo:
        repo.reproduce()  # pyright: ignore[reportCallIssue]  (a decorator hides the method's first parameter)


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def commit(root: Path) -> None:
    git(root, "commit", "-q", "-a", "-m", "x")


def preset(root: Path, name: str, text: str) -> None:
    (root / "presets" / f"{name}.yaml").write_text(text)


def test_preset_overlays_params_and_keeps_comments(root: Path) -> None:
    made = workspace.preset_workspace(root, "tiny")
    assert made == root / "runs" / "tiny"
    assert (made / "params.yaml").read_text() == PARAMS.replace("steps: 10", "steps: 22")
    assert (root / "params.yaml").read_text() == PARAMS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: {stpes: 2}", r"tiny.yaml: unknown key train.stpes \(did you mean steps\?\)"),
        ("trian: {steps: 2}", r"unknown key trian \(did you mean train\?\)"),
        ("sources: {world: {pth: x}}", r"unknown key sources.world.pth \(did you mean path\?\)"),
        ("sources: {own: {path: data/raw/own}}", r"sources.own: data/raw/own is missing: .*DATA="),
    ],
)
def test_bad_presets_are_refused_in_one_line(root: Path, text: str, said: str) -> None:
    preset(root, "tiny", text)
    with pytest.raises(Refused, match=said) as refused:
        workspace.preset_workspace(root, "tiny")
    assert "\n" not in str(refused.value)


def test_unknown_preset_names_the_known_ones(root: Path) -> None:
    with pytest.raises(Refused, match=r"unknown preset 'tinny' \(did you mean tiny\?\): known are tiny"):
        workspace.preset_workspace(root, "tinny")


def test_a_preset_adds_and_drops_entries_of_repeated_stages(root: Path, tmp_path: Path) -> None:
    preset(root, "own", "sources:\n  world: null\n  own: {path: data/raw/own, share: 0}")
    (tmp_path / "sets" / "own").mkdir(parents=True)
    made = workspace.preset_workspace(root, "own", tmp_path / "sets")
    assert dict(YAML().load((made / "params.yaml").read_text())["sources"]) == {
        "own": {"path": "data/raw/own", "share": 0}
    }
    assert (made / "data" / "raw").resolve() == tmp_path / "sets"
    workspace.preset_workspace(root, "own", tmp_path / "sets")  # the link is renewed, not followed


def test_a_clone_takes_uncommitted_edits_along_and_forgets_them_with_the_person(root: Path) -> None:
    (root / "world").write_text("edited")
    (root / "new file").write_text("new")
    (root / "thrown.out").write_text("ignored")
    (root / ".dvcignore").unlink()
    made = workspace.preset_workspace(root, "tiny")
    assert (made / "world").read_text() == "edited"
    assert (made / "new file").read_text() == "new"
    assert not (made / "thrown.out").exists()
    assert not (made / ".dvcignore").exists()
    git(root, "checkout", "-q", ".")
    (root / "new file").unlink()
    made = workspace.preset_workspace(root, "tiny")
    assert (made / "world").read_text() == "w"
    assert not (made / "new file").exists()
    assert (made / ".dvcignore").exists()


def test_a_clone_follows_new_commits_and_keeps_its_own_lock(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = workspace.preset_workspace(root, "tiny")
    repro(made, monkeypatch)
    lock = (made / "dvc.lock").read_text()
    (root / "world").write_text("next")
    commit(root)
    workspace.preset_workspace(root, "tiny")
    assert (made / "world").read_text() == "next"
    assert (made / "dvc.lock").read_text() == lock
    assert git(made, "rev-parse", "HEAD") == git(root, "rev-parse", "HEAD")


def test_clones_share_cache_store_and_remotes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / ".dvc" / "config.local").write_text("[core]\n    remote = near\n['remote \"near\"']\n    url = ../remote\n")
    made = workspace.preset_workspace(root, "tiny")
    repro(made, monkeypatch)
    assert not (made / ".dvc" / "cache").exists()
    assert (made / ".store").resolve() == root / ".store"
    assert Config(str(made / ".dvc"))["remote"]["near"]["url"] == str(root / "remote")
    fresh = workspace.fresh_workspace(root, "x")
    repro(fresh, monkeypatch)
    assert (fresh / "world.out").read_text() == "w"
    assert [*root.rglob("ran.out")] == [root / "runs" / "ran.out"], "the second one restored, from the shared run cache"
    assert git(fresh, "status", "--porcelain", "--", ":!dvc.lock") == ""


def test_a_fresh_clone_holds_what_is_committed_only(root: Path) -> None:
    (root / "world").write_text("edited")
    assert (workspace.fresh_workspace(root, "x") / "world").read_text() == "w"


@pytest.mark.parametrize(
    ("gone", "said"),
    [(".git", "not the top of a git repository.*git init"), (".dvc", "not a DVC repository.*dvc init")],
)
def test_a_checkout_that_cannot_work_is_refused(root: Path, gone: str, said: str) -> None:
    (root / gone).rename(root / "gone")
    with pytest.raises(Refused, match=said):
        workspace.check_checkout(root)


def test_a_missing_cache_is_refused(root: Path, tmp_path: Path) -> None:
    (root / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {tmp_path / 'unmounted'}\n")
    with pytest.raises(Refused, match=r"unmounted is missing.*dvc cache dir --local"):
        workspace.check_checkout(root)


def test_a_repository_without_a_commit_is_refused(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    with pytest.raises(Refused, match=r"no commit yet.*git commit"):
        workspace.check_checkout(tmp_path)
