"""Versions of what this checkout has made, registered without moving any branch.

After `make run` dvc.lock says which files the models are, but no commit holds it. A commit beside the branch does, with
the tracked files as they are; the tags keep it.
"""

import logging
import os
import tempfile
from pathlib import Path

from components.inference import pointer
from components.inference.pointer import Pointer
from flows.releases import recorded, registry, rollout
from flows.releases.recorded import Recorded
from flows.workspace import Refused, git, read_yaml

log = logging.getLogger(__name__)


def models(repo: Path) -> dict[str, str]:
    """Names and paths of the models that dvc.yaml has under `artifacts`."""
    entries = read_yaml(repo / "dvc.yaml").get("artifacts") or {}
    return {name: entry["path"] for name, entry in entries.items()}


def register(repo: Path, name: str) -> str:
    """Make this checkout as it is the next version of a name; the version that holds the same, where one does.

    Raises:
        Refused: dvc.yaml knows no model of this name, or dvc.lock does not hold its files.
    """
    commit = snapshot(repo)
    registry.model(recorded.read(repo, commit), name)
    push(repo)
    return registry.register(repo, name, commit)


def deploy(repo: Path, serving: Path) -> list[Pointer]:
    """Register and deploy each model that dvc.lock holds and nobody has deployed; none where there is none."""
    waiting = [name for name in models(repo) if not pointer.place(serving, name).exists()]
    if not waiting or not (repo / "dvc.lock").exists():
        return []
    commit = snapshot(repo)
    found = recorded.read(repo, commit)
    made = [name for name in waiting if _made(found, name)]
    if made:
        push(repo)
    return [rollout.deploy(repo, serving, name, registry.register(repo, name, commit)) for name in made]


def snapshot(repo: Path) -> str:
    """The commit that holds the tracked files, and dvc.lock, as they are: a version's, HEAD, or one on top of HEAD."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": os.path.join(folder, "index")}  # the person's own stays as it is
        git(repo, "read-tree", "HEAD", environment=index)
        git(repo, "add", "--update", environment=index)
        if (repo / "dvc.lock").exists():
            git(repo, "add", "dvc.lock", environment=index)
        tree = git(repo, "write-tree", environment=index).strip()
    tags = git(repo, "for-each-ref", "--format=%(*tree) %(*objectname)", "refs/tags").splitlines()
    held = dict(line.split() for line in [git(repo, "log", "-1", "--format=%T %H"), *tags] if line.strip())
    return held.get(tree) or git(repo, "commit-tree", tree, "-p", "HEAD", "-m", "What this checkout has made").strip()


def push(repo: Path) -> None:
    """Send data and models to the default DVC remote, where there is one; that it took nothing is logged."""
    from flows import bridge
    from flows.graph import one_line

    try:
        bridge.push(repo)
    except Exception as error:  # each kind of remote raises its own
        log.warning("the DVC remote took not all, `dvc push` once it is there again: %s", one_line(error))


def _made(found: Recorded, name: str) -> bool:
    try:
        registry.model(found, name)
    except Refused:
        return False
    return True
