"""The first versions: what this checkout has made, registered without moving any branch.

After `make run` dvc.lock says which files the models are, but no commit holds it. A commit beside the branch does, with
the tracked files as they are; the tags keep it.
"""

import os
import tempfile
from pathlib import Path

from components.inference.pointer import Pointer
from flows.releases import recorded, registry, rollout
from flows.workspace import Refused, git, read_yaml


def models(repo: Path) -> dict[str, str]:
    """Names and paths of the models that dvc.yaml has under `artifacts`."""
    entries = read_yaml(repo / "dvc.yaml").get("artifacts") or {}
    return {name: entry["path"] for name, entry in entries.items()}


def deploy(repo: Path, serving: Path) -> list[Pointer]:
    """Register and deploy each model that dvc.lock holds; none where it holds none."""
    commit = snapshot(repo)
    found = recorded.read(repo, commit)
    deployed = []
    for name in found.models:
        try:
            registry.model(found, name)
        except Refused:  # not made yet
            continue
        deployed.append(rollout.deploy(repo, serving, name, registry.register(repo, name, commit)))
    return deployed


def snapshot(repo: Path) -> str:
    """The commit that holds the tracked files, and dvc.lock, as they are: HEAD where it does, else one on top of it."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": os.path.join(folder, "index")}  # the person's own stays as it is
        git(repo, "read-tree", "HEAD", environment=index)
        git(repo, "add", "--update", environment=index)
        if (repo / "dvc.lock").exists():
            git(repo, "add", "dvc.lock", environment=index)
        tree = git(repo, "write-tree", environment=index).strip()
        if tree == git(repo, "rev-parse", "HEAD^{tree}").strip():
            return git(repo, "rev-parse", "HEAD").strip()
        return git(repo, "commit-tree", tree, "-p", "HEAD", "-m", "What this checkout has made").strip()
