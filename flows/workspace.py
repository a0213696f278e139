"""Workspaces: a clone under runs/ with other parameters, or of a clean commit, that shares what is costly.

A clone shares the DVC cache (so that nothing is computed twice), the checkpoint store `.store`, and `data/raw`. Its
`dvc.lock` is a result of its own runs and survives an update; all else follows the checkout that it was made from.
"""

import difflib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]  # this checkout
SERVING = ROOT / ".store" / "serving"  # pointers, versions and traffic, where nobody names another folder
DEFAULT_DATA = Path("../shared/data")  # where the sets of the preset `real` lie, beside the checkout


class Refused(ValueError):
    """What cannot be done as things are, and was not begun: one line with the thing, the reason and the remedy."""


def check_checkout(root: Path) -> None:
    """Raise Refused unless root is a git repository with a commit and a DVC repository whose cache can be written."""
    if not (root / ".git").exists():  # a file in a linked worktree
        raise Refused(f"{root} is not the top of a git repository: clone the project with git, or `git init` it")
    if subprocess.run(
        ["git", "-C", str(root), "rev-parse", "-q", "--verify", "HEAD"], check=False, capture_output=True
    ).returncode:
        raise Refused(f"{root} has no commit yet: `git add` and `git commit` first")
    if not (root / ".dvc").is_dir():
        raise Refused(f"{root} is not a DVC repository: `dvc init` it")
    cache = cache_folder(root)
    parent = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not (cache.is_relative_to(root) or cache.exists()):
        raise Refused(
            f"the DVC cache {cache} is missing: mount or make it, or choose another one by `dvc cache dir --local`"
        )
    if not os.access(parent, os.W_OK):
        raise Refused(
            f"the DVC cache {cache} cannot be written: `chown` it, or choose another one by `dvc cache dir --local`"
        )


def cache_folder(root: Path) -> Path:
    """The DVC cache of a repository."""
    from dvc.config import Config  # DVC takes 0.6 s to import

    return Path(Config(str(root / ".dvc")).get("cache", {}).get("dir", root / ".dvc" / "cache"))


def preset_workspace(root: Path, preset: str, data: Path | None = None) -> Path:
    """Make, or bring up to date, the clone runs/PRESET with presets/PRESET.yaml merged into its params.yaml.

    The person's edits that are not committed yet are taken along.

    Raises:
        Refused: unknown preset, a key that params.yaml does not have, or sets that are not there.
    """
    overlay = root / "presets" / f"{preset}.yaml"
    if not overlay.is_file():
        known = sorted(path.stem for path in (root / "presets").glob("*.yaml"))
        raise Refused(f"unknown preset {preset!r}{_nearest(preset, known)}: known are {', '.join(known)}")
    merged = merge_preset(root, overlay)  # refuse before anything is made
    workspace = root / "runs" / preset
    clone(root, workspace, edits=True)
    write_yaml(workspace / "params.yaml", merged)
    link_data(workspace, data or _raw_data(root))
    return workspace


def fresh_workspace(root: Path, name: str) -> Path:
    """A clone runs/fresh/NAME of what is committed, and nothing else."""
    workspace = root / "runs" / "fresh" / name
    clone(root, workspace, edits=False)
    link_data(workspace, _raw_data(root))
    return workspace


def branch_workspace(root: Path, workspace: Path, base: str, branch: str) -> None:
    """A clone on a branch of its own, begun at the commit of `base`; one that is there is left as it is."""
    if (workspace / ".git").exists() and git(workspace, "branch", "--show-current").strip() == branch:
        return
    clone(root, workspace, edits=False)
    link_data(workspace, _raw_data(root))
    for name, other in (("user.name", "tsumugi"), ("user.email", "tsumugi@localhost")):
        value = git(root, "config", "--default", other, "--get", name).strip()  # commits are the checkout's
        git(workspace, "config", name, value)
    git(workspace, "fetch", "-q", str(root), base)
    git(workspace, "checkout", "-q", "--force", "-B", branch, "FETCH_HEAD")


def clone(root: Path, workspace: Path, edits: bool) -> None:
    """Bring workspace to root's commit; with edits also to what is changed or new in root and not ignored by git."""
    check_checkout(root)
    lock = workspace / "dvc.lock"
    kept = lock.read_bytes() if lock.exists() else None
    if not (workspace / ".git").exists():
        workspace.parent.mkdir(parents=True, exist_ok=True)
        git(root, "clone", "-q", "--no-checkout", str(root), str(workspace))
    git(workspace, "fetch", "-q", str(root), "HEAD")
    git(workspace, "checkout", "-q", "--force", "--detach", "FETCH_HEAD")
    git(workspace, "clean", "-fdq")
    if edits:
        _copy_edits(root, workspace)
    if kept is not None:
        lock.write_bytes(kept)
    _share(root, workspace)


def _copy_edits(root: Path, workspace: Path) -> None:
    changed = git(root, "diff", "HEAD", "--name-only", "--no-renames", "-z").split("\0")
    untracked = git(root, "ls-files", "--others", "--exclude-standard", "-z").split("\0")
    for name in filter(None, changed + untracked):
        source, target = root / name, workspace / name
        if source.exists() or source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
        else:
            target.unlink(missing_ok=True)


def _share(root: Path, workspace: Path) -> None:
    """Let the clone use root's cache, remotes and checkpoint store."""
    from dvc.config import Config, merge

    # DVC makes paths absolute while reading a level and relative to the new place while writing it
    with Config(str(workspace / ".dvc")).edit("local") as local:
        merge(local, Config(str(root / ".dvc")).load_one("local"))
        merge(local, {"cache": {"dir": str(cache_folder(root))}})
    store = root / ".store"
    store.mkdir(exist_ok=True)
    if not (workspace / ".store").is_symlink():
        (workspace / ".store").symlink_to(store)


def link_data(workspace: Path, data: Path | None) -> None:
    """Link workspace/data/raw to the folder; Refused if params.yaml needs data/raw and it is not there."""
    link = workspace / "data" / "raw"
    if data is not None:
        if not data.is_dir():
            raise Refused(f"DATA={data} is not a folder: give the one that holds the sets")
        if link.exists() and not link.is_symlink():
            raise Refused(f"{link} is a folder of its own: move it away to use DATA={data}")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(data.resolve())
    for name, source in (read_yaml(workspace / "params.yaml").get("sources") or {}).items():
        path = str(source.get("path", ""))
        if path.startswith("data/raw/") and not (workspace / path).exists():
            raise Refused(f"sources.{name}: {path} is missing: name the folder that holds it by DATA=FOLDER")


def check_parameters(workspace: Path) -> None:
    """Raise Refused, with what the stages say, unless each of them accepts its slice of params.yaml."""
    command = [sys.executable, "-m", "flows.stages", "check"]
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(done.stderr.strip() or done.stdout.strip())


def _raw_data(root: Path) -> Path | None:
    """What a clone gets as data/raw if nobody says: what the checkout has, or the sets beside it."""
    places = (root / "data" / "raw", root / DEFAULT_DATA)
    return next((place for place in places if place.is_dir()), None)


def merge_preset(root: Path, overlay: Path) -> Any:
    """params.yaml with the overlay's values in place of its own, comments kept.

    Only in sections that dvc.yaml repeats a stage over (`foreach`) may an overlay add an entry, or drop one by
    `NAME: null`.
    """
    stages = read_yaml(root / "dvc.yaml").get("stages") or {}
    entries = {stage["foreach"].strip("${} ") for stage in stages.values() if isinstance(stage.get("foreach"), str)}
    merged = read_yaml(root / "params.yaml")
    changes = YAML(typ="safe").load(overlay.read_text()) or {}  # anchors and merged keys as the values they stand for
    _merge(merged, changes, (), entries, overlay.name)
    return merged


def _merge(base: Any, over: Any, path: tuple[str, ...], entries: set[str], name: str) -> None:
    free = ".".join(path) in entries
    for key, value in over.items():
        where = ".".join((*path, str(key)))
        if key not in base and not free:
            raise Refused(
                f"{name}: unknown key {where}{_nearest(str(key), base)}: params.yaml has {', '.join(base) or 'none'}"
            )
        if free and value is None:
            base.pop(key, None)
        elif isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value, (*path, str(key)), entries, name)
        else:
            base[key] = value


def _nearest(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 120
    yaml.representer.ignore_aliases = lambda _: True  # what stands in two places is written in both
    return yaml


def read_yaml(path: Path) -> Any:
    """A YAML file with its comments."""
    return parse_yaml(path.read_text())


def write_yaml(path: Path, value: Any) -> None:
    """What read_yaml() gave, with its comments."""
    with path.open("w") as file:
        dump_yaml(value, file)


def parse_yaml(text: str) -> Any:
    """As read_yaml()."""
    return _yaml().load(text)


def dump_yaml(value: Any, file: TextIO) -> None:
    """As write_yaml()."""
    _yaml().dump(value, file)


def git(repo: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """The output of a git command, run with some more variables; Refused with what git says where it fails."""
    command, variables = ["git", "-C", str(repo), *arguments], os.environ | (environment or {})
    done = subprocess.run(command, env=variables, check=False, capture_output=True, text=True)
    if done.returncode:
        reason = " ".join(done.stderr.split()) or "no such commit, branch or tag"
        raise Refused(f"git {' '.join(arguments)} failed in {repo}: {reason}")
    return done.stdout
