"""DVC's stages as plain values: names, what waits for what, what `meta` asks for, and dvc.lock's hashes."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import networkx
from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.reproduce import get_active_graph
from dvc.stage import Stage

from flows.workspace import Refused


@dataclass(frozen=True)
class Needs:
    """What a stage's `meta` says about where and how it may run. Other keys of `meta` are not ours."""

    phase: int | None = None
    group: str | None = None
    threads: int = 1
    gpus: int = 0  # 1 where meta says `pool: gpu` or `cuda` and no number
    exclusive: bool = False  # nothing beside it: a stage that measures time
    timeout: float | None = None  # seconds, for each attempt
    retries: int = 0

    @classmethod
    def of(cls, name: str, meta: Any) -> "Needs":
        """Refused: a value that this key cannot have."""
        meta = meta if isinstance(meta, dict) else {}
        kinds = {
            "phase": int,
            "group": str,
            "threads": int,
            "gpus": int,
            "exclusive": bool,
            "timeout": float,
            "retries": int,
        }
        found = {key: meta[key] for key in kinds if meta.get(key) is not None}
        for key, value in found.items():
            fits = type(value) is kinds[key] or (kinds[key] is float and type(value) is int)
            if not fits or (kinds[key] in (int, float) and value < 0):
                kind = {int: "a whole number", float: "a number of seconds", str: "a word", bool: "true or false"}[
                    kinds[key]
                ]
                raise Refused(f"stage {name}: meta.{key} must be {kind}, not {value!r}: correct it in dvc.yaml")
        if meta.get("pool") in ("gpu", "cuda"):  # `pool: ${item.device}` follows the parameters
            found.setdefault("gpus", 1)
        return cls(**found)


@dataclass(frozen=True)
class Node:
    """A stage or a .dvc file of the graph."""

    name: str
    upstream: tuple[str, ...]  # those that it waits for; none for a frozen stage
    runs: bool  # it has a command to run; a .dvc file and a frozen stage have none
    needs: Needs


def read(repo: Repo, targets: list[str]) -> tuple[dict[str, Node], dict[str, Stage]]:
    """The stages and .dvc files that the targets need (all where none is named), upstream first, with DVC's objects.

    Raises:
        Refused: dvc.yaml does not read, or a target is not known.
    """
    try:
        graph = get_active_graph(repo.index.graph)
    except DvcException as error:
        raise Refused(f"{repo.root_dir}: the graph does not read: {one_line(error)}") from error
    if targets:
        wanted = {stage for target in targets for stage in _collect(repo, target)}
        graph = graph.subgraph(wanted.union(*(networkx.descendants(graph, stage) for stage in wanted)))
    stages = {stage.addressing: stage for stage in graph}
    order = networkx.lexicographical_topological_sort(graph.reverse(copy=False), key=lambda stage: stage.addressing)
    nodes = {
        stage.addressing: Node(
            stage.addressing,
            tuple(sorted(other.addressing for other in graph.successors(stage))),
            is_command(stage),
            Needs.of(stage.addressing, stage.meta),
        )
        for stage in order
    }
    return nodes, stages


def _collect(repo: Repo, target: str) -> Iterable[Stage]:
    try:
        return repo.stage.collect(target)
    except DvcException as error:
        known = [stage.addressing for stage in repo.index.stages]
        near = difflib.get_close_matches(target, known, n=3, cutoff=0.4) or sorted(known)[:5]
        raise Refused(f"no stage or .dvc file {target!r} here; there is {', '.join(near)}") from error


def choose(nodes: dict[str, Node], phases: list[int], groups: list[str]) -> dict[str, Node]:
    """The stages of these phases and groups, with all that they need from others."""
    keep = [
        node.name
        for node in nodes.values()
        if (not phases or node.needs.phase in phases) and (not groups or node.needs.group in groups)
    ]
    for name in keep:  # grows while it is walked
        keep += [other for other in nodes[name].upstream if other not in keep]
    return {name: node for name, node in nodes.items() if name in keep}


def is_command(stage: Stage) -> bool:
    """Whether the stage has something to run; a .dvc file and a frozen stage have not."""
    return bool(stage.cmd) and not stage.frozen


def one_line(error: BaseException) -> str:
    """An error's message on one line, its causes behind it; a database's own, without SQLAlchemy's statement."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(parts) < 3:
        text = " ".join(str(getattr(cause, "orig", None) or cause).split())
        if text and not any(text in part for part in parts):
            parts.append(text)
        cause = cause.__cause__
    return ": ".join(parts) or type(error).__name__


@dataclass(frozen=True)
class File:
    """An input or output of a stage, as dvc.lock knows it."""

    role: str  # "input" or "output"
    path: str
    hash: str
    size: int | None  # bytes
    files: int | None  # in a folder
    kind: str  # "metric", "plot" or ""


@dataclass(frozen=True)
class Record:
    """A stage's entry in dvc.lock, for people to look at."""

    name: str
    files: tuple[File, ...]
    params: dict[str, Any]

    @classmethod
    def of(cls, stage: Stage) -> "Record":
        """The hashes that DVC's object of the stage holds now."""
        files = [_file("input", dep) for dep in stage.deps if not isinstance(dep, ParamsDependency)]
        files += [_file("output", out) for out in stage.outs]
        params: dict[str, Any] = {}
        for dep in stage.params:
            params |= dep.hash_info.value or {}  # pyright: ignore
        return cls(stage.addressing, tuple(files), params)


def _file(role: str, item: Any) -> File:
    kind = "metric" if item.metric else "plot" if item.plot else ""
    return File(role, str(item), str(item.hash_info.value or ""), item.meta.size, item.meta.nfiles, kind)
