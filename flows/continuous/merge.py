"""Two branches that each retrained another model, merged: git does it line by line, and where that fails for
params.yaml or dvc.lock (both sides added an entry in the same place) they are merged as what they are, mappings.

Nothing is checked out, so that neither branch nor work tree is touched before the merge is whole. What a person's own
runs have written into a checkout's dvc.lock, committed or not, stays when its branch moves on.
"""

import io
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from components.durable import write_whole
from flows.workspace import Refused, dump_yaml, git, parse_yaml

LOCK = "dvc.lock"
MAPPINGS = ("params.yaml", LOCK)


def merged(root: Path, ours: str, theirs: str, message: str) -> str:
    """The commit that merges `theirs` into `ours`. Refused where both changed the same thing, with what it is."""
    done = subprocess.run(
        ["git", "-C", str(root), "merge-tree", "--write-tree", "--name-only", "--no-messages", ours, theirs],
        capture_output=True,
        text=True,
        check=False,
    )
    tree, *conflicts = done.stdout.split("\n")
    conflicts = [name for name in conflicts if name]
    if done.returncode > 1:
        raise Refused(f"{theirs} does not merge into {ours}: {' '.join(done.stderr.split())}")
    if foreign := [name for name in conflicts if name not in MAPPINGS]:
        raise Refused(f"{theirs} does not merge into {ours}: both changed {', '.join(foreign)}: merge them by hand")
    if conflicts:
        base = git(root, "merge-base", ours, theirs).strip()
        tree = _replaced(root, tree, {name: _mapping(root, name, base, ours, theirs) for name in conflicts})
    return git(root, "commit-tree", tree, "-p", ours, "-p", theirs, "-m", message).strip()


def three_ways(base: Any, ours: Any, theirs: Any, where: str) -> None:
    """Bring into `ours` what `theirs` changed since `base`. Refused where ours changed the same otherwise."""
    for key in dict.fromkeys([*base, *theirs]):
        before, mine, other = (side.get(key) for side in (base, ours, theirs))
        if other in (before, mine):
            continue
        if mine == before:
            if other is None:
                del ours[key]
            else:
                ours[key] = other
        elif isinstance(mine, dict) and isinstance(other, dict):
            three_ways(before or {}, mine, other, f"{where}: {key}")
        else:
            raise Refused(f"{where}: both sides changed {key}: merge them by hand")


def fast_forward(root: Path, target: str) -> None:
    """Move the branch that is checked out, with its files, to a commit ahead of it that holds dvc.lock.

    A dvc.lock that is not as committed keeps its other stages' entries, and takes over those of the target.

    Raises:
        Refused: other files that are not committed are in the way; nothing was changed.
    """
    own = git(root, "status", "--porcelain", "--", LOCK).strip()
    if own:  # where the index has the target's entry, git leaves the file alone
        blob = git(root, "rev-parse", f"{target}:{LOCK}").strip()
        git(root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{LOCK}")
    try:
        git(root, "merge", "-q", "--ff-only", target)
    except Refused:
        if own:
            git(root, "reset", "-q", "--", LOCK)
        raise
    if own:
        text, path = git(root, "show", f"{target}:{LOCK}"), root / LOCK
        theirs, mine = parse_yaml(text), parse_yaml(path.read_text() if path.exists() else text)
        mine["stages"] = mine.get("stages", {}) | theirs["stages"]
        write_whole(path, (text if mine == theirs else _text(mine)).encode())


def _mapping(root: Path, name: str, base: str, ours: str, theirs: str) -> str:
    known = git(root, "ls-tree", "--name-only", base, name).strip()
    mine, other = (parse_yaml(git(root, "show", f"{commit}:{name}")) for commit in (ours, theirs))
    three_ways(parse_yaml(git(root, "show", f"{base}:{name}")) if known else {}, mine, other, name)
    return _text(mine)


def _text(value: Any) -> str:
    text = io.StringIO()
    dump_yaml(value, text)
    return text.getvalue()


def _replaced(root: Path, tree: str, contents: dict[str, str]) -> str:
    """The tree with other contents of some files, made in an index of its own."""
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"GIT_INDEX_FILE": str(Path(folder) / "index")}

        def run(*arguments: str, text: str = "") -> str:
            command = ["git", "-C", str(root), *arguments]
            return subprocess.run(
                command, env=env, input=text, capture_output=True, text=True, check=True
            ).stdout.strip()

        run("read-tree", tree)
        for name, content in contents.items():
            blob = run("hash-object", "-w", "--stdin", text=content)
            run("update-index", "--cacheinfo", f"100644,{blob},{name}")
        return run("write-tree")
