"""Model versions as git tags, in GTO's convention: `NAME@v1.2.0` on a commit that holds dvc.lock, `NAME#champion#3` on
the version that is champion from then on, `NAME#champion!#4` on one that is no longer.

GTO makes the tags, and `gto show` lists them. They are read here by their counters: GTO orders them by their time in
whole seconds, and a promotion and its rollback can fall into one. What is champion is a stack: whoever is unassigned
leaves the place to the champion before, which is what a rollback needs to know.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.inference.pointer import check_name
from flows.processes import alone
from flows.releases import recorded
from flows.releases.recorded import Recorded
from flows.workspace import Refused, git

log = logging.getLogger(__name__)
FIRST = "v1.0.0"  # the next ones are v1.1.0, v1.2.0: a retrained model is a minor version


@dataclass(frozen=True)
class Registered:
    """A model version."""

    name: str
    version: str
    commit: str
    time: str  # of its registration, ISO 8601
    stages: tuple[str, ...]  # in which it is now: "champion", "challenger"


@dataclass(frozen=True)
class Event:
    """One tag."""

    action: str  # "register", "deregister", "assign" or "unassign"
    name: str
    version: str | None
    stage: str | None
    counter: int  # the order of assignments; 0 for a registration
    commit: str
    time: str


def register(repo: Path, name: str, ref: str = "HEAD") -> str:
    """Make the commit the next version of a name; the version that it already is, where it is one.

    Raises:
        Refused: the commit's dvc.yaml knows no model of this name, or its dvc.lock does not hold its files.
    """
    import gto.api

    check(name)
    found = recorded.read(repo, ref)
    model(found, name)
    with alone(_lock(repo)):
        known = versions(repo, name)
        for each in known:
            if each.commit == found.commit:
                return each.version
        following: dict[str, Any] = {"bump_minor": True} if known else {"version": FIRST}
        with _told(name):
            version = gto.api.register(str(repo), name, found.commit, **following).version
    share(repo, name)
    return version


def model(found: Recorded, name: str) -> tuple[str, str]:
    """Path and hash of a name's model in a commit.

    Raises:
        Refused: dvc.yaml has no such artifact, or dvc.lock does not hold it.
    """
    if name not in found.models:
        raise Refused(
            f"commit {found.commit[:12]}: dvc.yaml has no model {name!r} under `artifacts`: it has "
            f"{', '.join(sorted(found.models)) or 'none'}"
        )
    path = found.models[name]
    for step in found.steps.values():
        for out in step.outputs:
            if out.path == path and out.hash:
                return path, out.hash
    raise Refused(f"commit {found.commit[:12]}: dvc.lock has no output {path} for {name}: run its stage and commit")


def assign(repo: Path, name: str, version: str, stage: str) -> None:
    """Have a version be the one in a stage ("champion", "challenger") from now on; nothing where it is.

    Raises:
        Refused: no such version.
    """
    import gto.api

    with alone(_lock(repo)):
        commit_of(repo, name, version)
        if served(repo, name, stage) != version:
            with _told(name):
                gto.api.assign(str(repo), name, stage, version=version, force=True)


def unassign(repo: Path, name: str, version: str, stage: str) -> None:
    """Take a version out of a stage, which is the one's before it again; nothing where it is not in it."""
    import gto.api

    with alone(_lock(repo)):
        if version in holders(repo, name, stage):
            with _told(name):
                gto.api.unassign(str(repo), name, version=version, stage=stage, force=True)


def share(repo: Path, name: str) -> None:
    """Send a name's tags to the checkout's origin, where it has one: all, for it may have been away before.

    What serves must not wait for it: where it takes nothing now, that is logged.
    """
    if "origin" in git(repo, "remote").split():
        try:
            git(repo, "push", "-q", "origin", *(f"refs/tags/{name}{kind}*:refs/tags/{name}{kind}*" for kind in "@#"))
        except Refused as error:
            log.warning("the tags of %s are here alone until the next one: %s", name, error)


def versions(repo: Path, name: str) -> list[Registered]:
    """The versions of a name, oldest first."""
    events = [event for event in _events(repo) if event.name == name]
    gone = {event.version for event in events if event.action == "deregister"}
    made = [event for event in events if event.action == "register" and event.version not in gone]
    stages = sorted({event.stage for event in events if event.stage})
    now = {stage: _holders(events, stage)[-1:] for stage in stages}
    return [
        Registered(
            name, str(event.version), event.commit, event.time, tuple(s for s in stages if event.version in now[s])
        )
        for event in sorted(made, key=lambda event: _order(str(event.version)))
    ]


def names(repo: Path) -> list[str]:
    """The names that have versions."""
    return sorted({event.name for event in _events(repo) if event.action == "register"})


def commit_of(repo: Path, name: str, version: str) -> str:
    """The commit of a version. Refused where there is none, with those that there are."""
    check(name)
    known = {each.version: each.commit for each in versions(repo, name)}
    if version not in known:
        others = (
            f"its versions are {', '.join(known)}" if known else f"known names are {', '.join(names(repo)) or 'none'}"
        )
        raise Refused(f"no version {name}@{version}: {others}")
    return known[version]


def served(repo: Path, name: str, stage: str) -> str | None:
    """The version that is in a stage."""
    return next(reversed(holders(repo, name, stage)), None)


def holders(repo: Path, name: str, stage: str) -> list[str]:
    """The versions that were put into a stage and not taken out again, the present one last."""
    return _holders([event for event in _events(repo) if event.name == name], stage)


def history(repo: Path, name: str, version: str) -> list[Event]:
    """The tags of a version, oldest first."""
    commit = commit_of(repo, name, version)
    return [event for event in _events(repo) if event.name == name and event.commit == commit]


def check(name: str) -> None:
    """Refused unless the name can be a model's."""
    try:
        check_name(name)
    except ValueError as error:
        raise Refused(str(error)) from None


def _holders(events: list[Event], stage: str) -> list[str]:
    gone = {event.version for event in events if event.action == "deregister"}
    made = [event for event in events if event.action == "register" and event.version not in gone]
    version = {event.commit: str(event.version) for event in made}
    stack: list[str] = []
    for event in events:
        if event.stage == stage and event.commit in version:
            stack = [each for each in stack if each != version[event.commit]]
            stack += [version[event.commit]] if event.action == "assign" else []
    return stack


def _events(repo: Path) -> list[Event]:
    """All tags of GTO's convention, in their order."""
    from gto.constants import Action
    from gto.tag import parse_name

    wanted = {Action.REGISTER, Action.DEREGISTER, Action.ASSIGN, Action.UNASSIGN}
    events = []
    form = "%(refname:strip=2)%09%(*objectname)%09%(taggerdate:iso-strict)"
    for line in git(repo, "for-each-ref", f"--format={form}", "refs/tags").splitlines():
        tag, commit, time = line.split("\t")
        parsed = parse_name(tag, raise_on_fail=False)
        if parsed and commit and parsed.get("action") in wanted:  # a light tag has no object of its own: not GTO's
            counter = parsed.get("counter", 0)
            action = parsed["action"].value
            events.append(
                Event(action, parsed["name"], parsed.get("version"), parsed.get("stage"), counter, commit, time)
            )
    return sorted(events, key=lambda event: (event.counter, event.version or ""))


def _order(version: str) -> Any:
    from gto.versions import SemVer

    return SemVer.parse(version)


def _lock(repo: Path) -> Path:
    return repo / git(repo, "rev-parse", "--git-common-dir").strip() / "tsumugi-registry.lock"


@contextmanager
def _told(name: str) -> Iterator[None]:
    """GTO's and git's refusals as ours."""
    from gto.exceptions import GTOException
    from scmrepo.exceptions import SCMError

    from flows.graph import one_line

    try:
        yield
    except (GTOException, SCMError, ValueError, OSError) as error:
        raise Refused(f"{name}: git took no tag: {one_line(error)}") from error
