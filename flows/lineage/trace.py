"""Where a served answer comes from, and where a source went.

Backward: an answer's id (the traffic database knows version and commit) or NAME@VERSION, to the commit, the chain of
stages with their parameters and every hash, the sources, the tags, and the experiments that the version was in.
Forward: a path, an address or a hash, to every registered version whose chain has seen it.
All of it is read from git and the database as they are; nothing is checked out, computed or fetched.
"""

import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from flows.graph import File
from flows.releases import recorded, registry
from flows.releases.recorded import Step, overlap
from flows.releases.registry import Event
from flows.traffic import opened
from flows.workspace import Refused, cache_folder

PRIVATE = ("user", "input", "output")  # what a page that is passed on must not show of a request
HASH = re.compile("[0-9a-f]{6,32}([.]dir)?")  # an MD5 or its beginning


@dataclass(frozen=True)
class Source:
    """Data that no stage made: where the chain begins."""

    place: str  # a path in the repository, or an address
    hash: str  # MD5, with `.dir` behind it for a folder; empty for an address
    step: str  # that reads it


@dataclass(frozen=True)
class Lineage:
    """A model version and all that it comes from."""

    name: str
    version: str
    commit: str
    time: str  # of the commit, ISO 8601
    subject: str  # of the commit
    model: File
    steps: tuple[Step, ...]  # upstream first; the last one made the model
    sources: tuple[Source, ...]
    tags: tuple[Event, ...]  # registration and stages, oldest first
    experiments: tuple[dict[str, Any], ...]  # rows of the traffic database that name the version, oldest first
    request: dict[str, Any] | None  # the answer that was asked about


@dataclass(frozen=True)
class Seen:
    """A version whose chain has seen what was asked about."""

    name: str
    version: str
    commit: str
    stages: tuple[str, ...]  # "champion", "challenger", as they are now
    step: str  # that read or made it
    place: str
    hash: str


def trace(repo: Path, what: str, database: str | None = None) -> Lineage:
    """The lineage of an answer (its id), of NAME@VERSION, or of NAME, which is its champion.

    Args:
        database: URL of the traffic database; without one a version's experiments are not told.

    Raises:
        Refused: there is no such answer or version here, or its commit does not read.
    """
    row, rows = None, []
    if _is_id(what):
        row = _request(what, database)
        name, version, commit = row["name"], row["version"], row["commit"]
    else:
        name, _, version = what.partition("@")
        registry.check(name)
        version = version or registry.served(repo, name, "champion") or "(champion)"
        commit = registry.commit_of(repo, name, version)
    if database:
        with opened(database) as traffic:
            rows = traffic.experiments(name)
    found = recorded.read(repo, commit)
    path, digest = registry.model(found, name)
    steps = found.chain(path)
    return Lineage(
        name,
        version,
        found.commit,
        found.time,
        found.subject,
        next(out for out in steps[-1].outputs if (out.path, out.hash) == (path, digest)),
        tuple(steps),
        tuple(sources(steps)),
        tuple(registry.history(repo, name, version)),
        tuple(each for each in rows if version in (each["champion"], each["challenger"])),
        row,
    )


def sources(steps: list[Step]) -> Iterator[Source]:
    """What the steps took from outside."""
    for step in steps:
        for file in step.inputs:
            if file.role == "source":
                yield Source(file.path, file.hash, step.name)
        for url in step.urls:
            yield Source(url, "", step.name)
        if not step.command and not step.urls:  # a .dvc file of data that was added by hand
            for file in step.outputs:
                yield Source(file.path, file.hash, step.name)


def seen(repo: Path, what: str, log: Callable[[str], None] = print) -> list[Seen]:
    """Every registered version whose chain has read or made a path, an address or a hash; once a version and hash.

    A path stands for all that lies in it, and a folder's hash for the folder as a whole. A file in a folder is known by
    path and hash where the DVC cache holds the folder's list, else by path alone, as the folder. A version whose commit
    does not read is told to `log` and left out.
    """
    found: list[Seen] = []
    what = _inside(repo, what)
    listing = lru_cache(maxsize=None)(partial(_listing, cache_folder(repo)))
    for name in registry.names(repo):
        for version in registry.versions(repo, name):
            try:
                at = recorded.read(repo, version.commit)
                chain = at.chain(registry.model(at, name)[0])
            except Refused as error:
                log(f"{name}@{version.version} is left out: {error}")
                continue
            about = (name, version.version, version.commit, version.stages)
            hits = [Seen(*about, source.step, source.place, source.hash) for source in _touching(chain, what, listing)]
            found += {(hit.place, hit.hash): hit for hit in reversed(hits)}.values()  # the step nearest to the source
    return found


def _touching(chain: list[Step], what: str, listing: Callable[[str], dict[str, str]]) -> Iterator[Source]:
    for step in chain:
        for file in (*step.inputs, *step.outputs):
            files = {f"{file.path}/{name}": digest for name, digest in listing(file.hash).items()}
            if HASH.fullmatch(what):
                found = {path: digest for path, digest in files.items() if digest.startswith(what)}
                found |= {file.path: file.hash} if file.hash.startswith(what) else {}
            elif files and what.startswith(f"{file.path}/"):
                below = any(path.startswith(f"{what}/") for path in files)
                found = {what: files.get(what, file.hash)} if below or what in files else {}
            else:
                found = {file.path: file.hash} if overlap(what, file.path) else {}
            for path, digest in found.items():
                yield Source(path, digest, step.name)
        for url in step.urls:
            if url == what:
                yield Source(url, "", step.name)


def _listing(cache: Path, digest: str) -> dict[str, str]:
    """Path -> MD5 of the files in a folder; none for a file, and where the cache does not hold the folder's list."""
    path = cache / "files" / "md5" / digest[:2] / digest[2:]
    if not (digest.endswith(".dir") and path.is_file()):
        return {}
    return {entry["relpath"]: entry["md5"] for entry in json.loads(path.read_text())}


def _inside(repo: Path, what: str) -> str:
    """A path below the repository as dvc.lock has it; anything else as it is."""
    if "://" in what or HASH.fullmatch(what):
        return what
    path = os.path.normpath(os.path.join(repo.resolve(), what)) if os.path.isabs(what) else os.path.normpath(what)
    return os.path.relpath(path, repo.resolve()) if os.path.isabs(path) else path


def as_dict(lineage: Lineage) -> dict[str, Any]:
    """Plain values for JSON, without what people wrote and got."""
    row = lineage.request and {key: value for key, value in lineage.request.items() if key not in PRIVATE}
    return asdict(lineage) | {"request": row}


def _is_id(what: str) -> bool:
    try:
        uuid.UUID(what)
    except ValueError:
        return False
    return True


def _request(id: str, database: str | None) -> dict[str, Any]:
    if not database:
        raise Refused(f"answer {id}: name the traffic database that knows it by TSUMUGI_DATABASE")
    with opened(database) as traffic:
        row = traffic.request(str(uuid.UUID(id)))
    if row is None:
        raise Refused(f"no answer {id} in the traffic database: is TSUMUGI_DATABASE that of the server?")
    return row
