"""What a commit records of its pipeline: dvc.lock, dvc.yaml and .dvc files as plain values, through `git show`.

Nothing is checked out and nothing of the commit is executed: it may be years old, or of another branch. dvc.lock alone
gives the whole chain, because each stage's parameters and each input's and output's hash stand spelled out in it;
dvc.yaml adds what stages are for, and which output is the model of which name (`artifacts`, as DVC and GTO have it).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.graph import File
from flows.workspace import Refused, git


@dataclass(frozen=True)
class Step:
    """A stage as it ran, or a .dvc file.

    An input that no step of the commit makes has the role "source" (data) or "code"; others "input"; outputs "output".
    """

    name: str
    command: str  # empty for a .dvc file
    description: str  # `desc` in dvc.yaml
    params: dict[str, Any]  # `sources.world` -> value; `packages.yaml: numpy` where the file is not params.yaml
    inputs: tuple[File, ...]
    outputs: tuple[File, ...]
    urls: tuple[str, ...]  # addresses among the parameters, or that a .dvc file imports from


@dataclass(frozen=True)
class Recorded:
    """The pipeline of one commit."""

    commit: str
    time: str  # of the commit, ISO 8601
    subject: str
    steps: dict[str, Step]
    models: dict[str, str]  # name -> path of the output that is the model

    def chain(self, path: str) -> list[Step]:
        """The steps that a path needs, upstream first; empty where no step makes it."""
        order: dict[str, Step] = {}

        def visit(step: Step) -> None:
            if step.name not in order:
                for file in step.inputs:
                    for before in self._makers(file.path):
                        visit(before)
                order[step.name] = step  # after all that it needs; DVC allows no cycle

        for step in self._makers(path):
            visit(step)
        return list(order.values())

    def _makers(self, path: str) -> list[Step]:
        return [step for step in self.steps.values() if any(overlap(path, out.path) for out in step.outputs)]


def overlap(one: str, other: str) -> bool:
    """Whether two paths are the same or one lies in the other."""
    shorter, longer = sorted((PurePosixPath(one), PurePosixPath(other)), key=lambda path: len(path.parts))
    return longer.is_relative_to(shorter)


def read(repo: Path, ref: str) -> Recorded:
    """What a commit, branch or tag records.

    Raises:
        Refused: no such commit, it holds no dvc.lock, or a file in it does not read.
    """
    return _read(
        repo.resolve(), git(repo, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}").strip()
    )


@lru_cache(maxsize=64)  # a commit does not change; forward lineage reads many
def _read(repo: Path, commit: str) -> Recorded:
    files = git(repo, "ls-tree", "-r", "-z", "--name-only", commit).split("\0")
    if "dvc.lock" not in files:
        raise Refused(f"commit {commit[:12]} holds no dvc.lock: `dvc repro`, and commit dvc.lock with what made it")
    lock, yaml = (_load(repo, commit, name) if name in files else {} for name in ("dvc.lock", "dvc.yaml"))
    try:
        about = {name: str((stage or {}).get("desc") or "") for name, stage in (yaml.get("stages") or {}).items()}
        about |= {  # `foreach` keeps what it repeats under `do`
            name: str(stage["do"].get("desc") or "")
            for name, stage in (yaml.get("stages") or {}).items()
            if "do" in stage
        }
        steps = [_stage(name, entry, about) for name, entry in (lock.get("stages") or {}).items()]
        steps += [_tracked(name, _load(repo, commit, name)) for name in files if name.endswith(".dvc")]
        models = {name: entry["path"] for name, entry in (yaml.get("artifacts") or {}).items()}
    except (AttributeError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise Refused(f"commit {commit[:12]}: its dvc.lock or dvc.yaml is not as DVC writes it ({reason})") from error
    time, _, subject = git(repo, "show", "-s", "--format=%cI%n%s", commit).strip().partition("\n")
    known = {str(parent) for name in files for parent in (PurePosixPath(name), *PurePosixPath(name).parents)}
    steps = [_with_roles(step, steps, known) for step in steps]
    return Recorded(commit, time, subject, {step.name: step for step in steps}, models)


def _load(repo: Path, commit: str, name: str) -> dict[str, Any]:
    try:
        found = YAML(typ="safe").load(git(repo, "show", f"{commit}:{name}"))
    except YAMLError as error:
        raise Refused(f"commit {commit[:12]}: {name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise Refused(f"commit {commit[:12]}: {name} holds a {type(found).__name__}, not a mapping")
    return found


def _stage(name: str, entry: dict[str, Any], about: dict[str, str]) -> Step:
    params = {
        key if file == "params.yaml" else f"{file}: {key}": value
        for file, values in (entry.get("params") or {}).items()
        for key, value in values.items()
    }
    command = entry.get("cmd") or ""
    return Step(
        name,
        command if isinstance(command, str) else "\n".join(command),
        about.get(name.partition("@")[0], ""),
        params,
        tuple(_file("input", dep) for dep in entry.get("deps") or ()),
        tuple(_file("output", out) for out in entry.get("outs") or ()),
        tuple(text for text in _texts(params) if "://" in text),
    )


def _tracked(name: str, entry: dict[str, Any]) -> Step:
    """A .dvc file: data that was added by hand, or imported. Its paths are relative to its own folder."""
    folder = PurePosixPath(name).parent
    wdir = folder / (entry.get("wdir") or ".")
    outs = tuple(_file("output", out | {"path": str(wdir / out["path"])}) for out in entry.get("outs") or ())
    urls = [str(dep.get("repo", dep)["url" if "repo" in dep else "path"]) for dep in entry.get("deps") or ()]
    return Step(name, "", str(entry.get("desc") or ""), {}, (), outs, tuple(urls))


def _file(role: str, entry: dict[str, Any]) -> File:
    found = entry.get("md5") or entry.get("etag") or entry.get("checksum") or ""
    return File(role, entry["path"], str(found), entry.get("size"), entry.get("nfiles"), "")


def _with_roles(step: Step, steps: list[Step], known: set[str]) -> Step:
    """Tell a step's inputs apart. A path that the step's own parameters name is data, though git may hold it."""
    named = set(_texts(step.params))

    def role(path: str) -> str:
        if any(overlap(path, out.path) for other in steps for out in other.outputs):
            return "input"
        return "code" if path in known and path not in named else "source"

    return replace(step, inputs=tuple(replace(file, role=role(file.path)) for file in step.inputs))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
