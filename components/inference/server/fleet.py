"""The versions that serve: it follows the pointers, loads what they name beside what serves, swaps, and frees the old.

An answer comes from one version from start to end: a request enters a deployment, and a deployment that was replaced is
closed only when all that entered have left. All of this happens on the event loop; hashing, loading and warming in one
thread beside it. A version that cannot be verified, loaded or warmed is refused, and what serves stays.
"""

import asyncio
import gc
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from components.inference import pointer as pointers
from components.inference.experiment.assignment import assign
from components.inference.pointer import Challenger, Pointer, Version
from components.inference.server.errors import ApiError
from components.inference.server.metrics import Metrics
from components.inference.server.pictures import Picture, find
from components.inference.server.runners import RUNNERS, Runner, Tools
from components.inference.server.served import Kind, Served
from components.inference.server.settings import Settings
from components.inference.traffic import Role

log = logging.getLogger(__name__)
Load = Callable[[Path], Served]
R = TypeVar("R")


@dataclass(eq=False)
class Deployment:
    """One version of a name, loaded and warm."""

    name: str
    version: Version
    kind: Kind
    runner: Runner
    inside: int = 0  # requests that have entered and not left
    empty: asyncio.Event = field(default_factory=asyncio.Event)

    def enter(self) -> None:
        self.inside += 1
        self.empty.clear()

    def leave(self) -> None:
        self.inside -= 1
        if not self.inside:
            self.empty.set()

    def running(self, kind: type[R]) -> R:
        """The runner as one of this class, which it is where `Fleet.named` was asked for its kind."""
        assert isinstance(self.runner, kind)
        return self.runner

    async def close(self) -> None:
        """Once all have left."""
        if self.inside:
            await self.empty.wait()
        await asyncio.to_thread(self.runner.close)

    def holds(self, version: Version) -> bool:
        return (self.version.version, self.version.commit, self.version.folder, self.version.files) == (
            version.version, version.commit, version.folder, version.files,
        )  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """Who may answer a request, and in which part."""

    deployment: Deployment
    role: Role
    experiment: str | None


@dataclass
class Slot:
    """What serves a name."""

    champion: Deployment | None = None
    challenger: Deployment | None = None
    trial: Challenger | None = None  # what the pointer says of the challenger
    serial: int = 0
    since: int = 0  # seconds since 1970, when the champion came
    problem: str = ""  # why the pointer's wish is not fulfilled
    tried: float = 0.0  # time.monotonic() of the last attempt
    stamp: tuple[int, int] | None = None  # of the pointer's file

    @property
    def deployments(self) -> list[Deployment]:
        return [each for each in (self.champion, self.challenger) if each]


class Fleet:
    """load: a folder's model. It is called in a thread."""

    def __init__(self, settings: Settings, load: Load, metrics: Metrics) -> None:
        self.settings, self.load, self.metrics = settings, load, metrics
        self.slots: dict[str, Slot] = {}
        self.pictures: list[Picture] = find(settings.pictures) if settings.pictures else []
        self._loader = ThreadPoolExecutor(1, "loader")
        self._closing: set[asyncio.Task[None]] = set()

    def missing(self) -> dict[str, str]:
        """Name -> why it does not serve what its pointer says; empty when all is well. Nothing deployed is a lack."""
        if not self.slots:
            return {"*": f"no pointer in {self.settings.serving}: deploy a version"}
        return {name: slot.problem for name, slot in sorted(self.slots.items()) if slot.problem}

    @property
    def ready(self) -> bool:
        """Whether every name has a version that serves, if not the one that it should."""
        return bool(self.slots) and all(slot.champion for slot in self.slots.values())

    def named(self, name: str | None, kind: Kind) -> str:
        """The served name that a request means: its own, or without one the first of this kind.

        Raises:
            ApiError: there is none, or it is of another kind.
        """
        if name is None:
            fit = sorted(each for each, slot in self.slots.items() if slot.champion and slot.champion.kind == kind)
            if not fit:
                raise ApiError(404, f"No model of the kind {kind} is served.", "model_not_found", "model")
            return fit[0]
        slot = self.slots.get(name)
        if slot is None:
            raise ApiError(404, f"The model {name[:100]!r} is not served.", "model_not_found", "model")
        if slot.champion is None:
            raise ApiError(503, f"The model {name!r} is not ready.", "not_ready", "model", retry_after=1)
        if slot.champion.kind != kind:
            raise ApiError(400, f"The model {name!r} is a {slot.champion.kind}, not a {kind}.", "wrong_model", "model")
        return name

    def choose(self, name: str, user: str) -> tuple[list[Candidate], Candidate | None]:
        """Who answers, first choice first, and who computes the same in the shadow. `name`: from `named`."""
        slot = self.slots[name]
        assert slot.champion is not None
        if slot.challenger is None or slot.trial is None:
            return [Candidate(slot.champion, "champion", None)], None
        trial = slot.trial
        if trial.mode == "shadow":
            copied = random.random() < trial.share
            shadow = Candidate(slot.challenger, "shadow", trial.experiment) if copied else None
            return [Candidate(slot.champion, "champion", trial.experiment)], shadow
        if assign(user, trial.experiment, trial.share) == "champion":
            return [Candidate(slot.champion, "champion", trial.experiment)], None
        # where the challenger breaks, the champion answers; outside the experiment, for the user is not its own
        tried = Candidate(slot.challenger, "challenger", trial.experiment)
        return [tried, Candidate(slot.champion, "champion", None)], None

    async def follow(self) -> None:
        """Look at the pointers again and again, until cancelled."""
        settled = False
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("looking at the pointers failed; what serves stays")
            if self.ready and not settled:
                settled = True
                _settle()
            await asyncio.sleep(self.settings.poll)

    async def look(self) -> None:
        """Bring what serves in line with the pointers, as far as that goes."""
        stamps = await asyncio.to_thread(self._stamps)
        for name, stamp in stamps.items():
            slot = self.slots.setdefault(name, Slot())
            again = slot.problem and time.monotonic() - slot.tried > self.settings.retry
            if stamp != slot.stamp or again:
                slot.stamp, slot.tried = stamp, time.monotonic()
                await self._turn(name, slot)
        for name in self.slots.keys() - stamps.keys():
            self.slots[name].problem = "its pointer is gone: put it back; what was loaded serves on"
            self.slots[name].stamp = None

    def _stamps(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in sorted(self.settings.serving.glob("*.json")):
            try:
                about = path.stat()
            except FileNotFoundError:  # replaced in this moment
                continue
            if pointers.NAME.fullmatch(path.stem):
                found[path.stem] = (about.st_mtime_ns, about.st_ino)
        return found

    async def _turn(self, name: str, slot: Slot) -> None:
        """Load what the pointer names and is not there yet, then swap; a champion that fails changes nothing."""
        try:
            pointer = await asyncio.to_thread(pointers.read, pointers.place(self.settings.serving, name))
        except Exception as error:
            self._refuse(name, slot, f"its pointer cannot be read: {_why(error)}")
            return
        if slot.champion and pointer.serial < slot.serial:
            self._refuse(name, slot, f"its pointer went back from serial {slot.serial} to {pointer.serial}")
            return
        try:
            champion = await self._have(slot, name, pointer.champion)
        except Exception as error:
            self._refuse(name, slot, f"{pointer.champion.version} was refused: {_why(error)}")
            return
        challenger, problem = None, ""
        if pointer.challenger:
            try:
                challenger = await self._have(slot, name, pointer.challenger)
            except Exception as error:
                problem = f"challenger {pointer.challenger.version} was refused: {_why(error)}"
        self._swap(name, slot, pointer, champion, challenger)
        slot.problem = ""
        if problem:
            self._refuse(name, slot, problem)

    async def _have(self, slot: Slot, name: str, version: Version) -> Deployment:
        """The version's deployment, made if it is not there."""
        for each in slot.deployments:
            if each.holds(version):
                return each
        kind = slot.champion.kind if slot.champion else None
        made = await asyncio.get_running_loop().run_in_executor(self._loader, self._make, name, version, kind)
        self.metrics.swaps.labels(name, "loaded").inc()
        return made

    def _make(self, name: str, version: Version, kind: Kind | None) -> Deployment:
        """In the loader's thread: verify, load, warm."""
        pointers.verify(version)
        served = self.load(version.folder)
        if kind and served.about.kind != kind:
            raise ValueError(f"it is a {served.about.kind}, and {name} serves a {kind}")
        seen = self.metrics.batches.labels(name).observe
        runner = RUNNERS[served.about.kind](served, Tools(self.settings, name, seen, self.pictures))
        try:
            runner.warm()
        except BaseException:
            runner.close()
            raise
        return Deployment(name, version, served.about.kind, runner)

    def _swap(
        self, name: str, slot: Slot, pointer: Pointer, champion: Deployment, challenger: Deployment | None
    ) -> None:
        """From the next request on, these answer; the others close when their last request has left."""
        before = slot.deployments
        slot.champion, slot.challenger, slot.trial = champion, challenger, pointer.challenger
        slot.serial = pointer.serial
        slot.since = slot.since if champion in before[:1] else int(time.time())
        for old in before:
            if old not in slot.deployments:
                task = asyncio.get_running_loop().create_task(self._retire(old))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        who = f"{champion.version.version}" + (f" and {challenger.version.version}" if challenger else "")
        log.info("%s is served by %s (serial %d)", name, who, pointer.serial)

    async def _retire(self, old: Deployment) -> None:
        await old.close()
        if old.version.version not in [each.version.version for each in self.slots[old.name].deployments]:
            self.metrics.forget(old.name, old.version.version)

    def _refuse(self, name: str, slot: Slot, problem: str) -> None:
        if problem != slot.problem:
            log.error("%s: %s", name, problem)
        slot.problem = problem
        self.metrics.swaps.labels(name, "refused").inc()

    async def close(self) -> None:
        """Close all, each once its requests have left."""
        await asyncio.gather(*(each.close() for slot in self.slots.values() for each in slot.deployments))
        await asyncio.gather(*self._closing)
        self._loader.shutdown()


def _settle() -> None:
    """Leave what was imported out of later collections: walking through it takes 0.3 s, in which nobody is answered."""
    gc.collect()
    gc.freeze()


def _why(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
