"""Begin, run and finish single stages of a DVC repository, from many threads of one process.

DVC's own `repro` is one long call that holds the repository lock and drops it only around a command. Here the same
steps (dvc/stage/__init__.py `reproduce` and `run`, dvc/stage/run.py) stand apart, each short and under the lock, with
the command between them under none:

    look     up to date, in the caches, or to be run? Changes nothing: a stage that will not run takes no slot.
    begin    remove the outputs, remember the inputs' hashes, enter DVC's read-write lock: by hand it is found busy.
    run      the commands, each under the supervisor.
    finish   the inputs must still have their hashes; then outputs go to the cache and the entry to dvc.lock.

dvc.lock has one writer (definitions.py), which puts a new file in place of the old one.
These are DVC's internals: its version is pinned, and the tests compare with `dvc repro`.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, chdir, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.scm import SCMError
from dvc.stage import Stage
from dvc.stage.cache import RunCacheNotFoundError, RunCacheNotSupported
from dvc.stage.run import _enforce_cmd_list, _make_cmd, get_executable, prepare_kwargs

from flows.command import Command, Lines
from flows.definitions import Definitions
from flows.graph import Node, Record, is_command, one_line, read
from flows.locks import BROKEN, Cancelled, Locks
from flows.workspace import Refused

Log = Callable[[str], None]


class StageFailed(RuntimeError):
    """A command of the stage failed: to run it again may help."""


class StageTimedOut(StageFailed, TimeoutError):
    """The commands of the stage took longer than they may."""


class InputsChanged(RuntimeError):
    """Inputs changed while the stage ran: its outputs belong to no known inputs, and nothing was recorded."""


class Outlook(StrEnum):
    """What will happen to a stage; CACHED and RESTORE are also what begin() answers when it has happened."""

    CACHED = "cached"
    RESTORE = "restore"
    RUN = "run"
    BUSY = "busy"  # another DVC process works on its files: look again later


@dataclass
class Work:
    """A stage that has begun: to be run, and finished if that went well."""

    stage: Stage
    before: dict[str, Any]  # input -> hash when it began
    held: ExitStack  # its entries in DVC's read-write lock


def push(root: Path, log: Log = print) -> None:
    """Send a repository's outputs and run cache to its default remote, where there is one."""
    with chdir(root):
        bridge = Bridge(root, log)
        try:
            if bridge.shared:
                bridge.push()
        finally:
            bridge.repo.close()


class Bridge:
    """One DVC repository, driven by one process whose working directory is the repository's root.

    Args:
        root: folder inside the repository.
        log: gets a line when something has to be waited for.

    Raises:
        Refused: there is no git or no DVC repository.
    """

    def __init__(self, root: Path, log: Log = print) -> None:
        logging.getLogger("dvc").setLevel(logging.WARNING)  # it tells each file that it writes
        try:
            self.repo = Repo(str(root))
        except SCMError as error:
            raise Refused(f"{root} is in no git repository ({one_line(error)}): `git init` makes one") from error
        except DvcException as error:
            raise Refused(f"{root} is in no DVC repository ({one_line(error)}): `dvc init` makes one") from error
        self.root = Path(self.repo.root_dir)
        self.shared = self.repo.config["core"].get("remote") is not None  # a default remote: others look there too
        self.locks = Locks(self.repo, log)
        self._definitions = Definitions(self.repo)
        self._stages: dict[str, Stage] = {}  # as graph() read them
        self._commands: set[Command] = set()

    def graph(self, targets: Iterable[str] = ()) -> dict[str, Node]:
        """The stages and .dvc files that the targets need (all of them where none is named), upstream first.

        Raises:
            Refused: dvc.yaml does not read, or a target is not known.
        """
        nodes, self._stages = self.locks.locked(lambda: read(self.repo, list(targets)))
        return nodes

    def known(self, name: str) -> Record:
        """What dvc.lock held for this stage when the graph was read."""
        return Record.of(self._stages[name])

    def current(self, name: str) -> Record:
        """What dvc.lock holds for this stage now."""
        return self.locks.locked(lambda: Record.of(self._definitions.load(name)))

    def plan(self, graph: dict[str, Node]) -> dict[str, Outlook]:
        """In one pass under one lock: the outlook of every stage that has none but cached ones before it."""

        def work() -> dict[str, Outlook]:
            plan: dict[str, Outlook] = {}
            for node in graph.values():
                if all(plan.get(name) == Outlook.CACHED for name in node.upstream):
                    plan[node.name] = self._look(self._stages[node.name])
            return plan

        return self.locks.locked(work)

    def look(self, name: str) -> Outlook:
        """The outlook of a stage, now that all before it have ended well."""
        return self.locks.locked(lambda: self._look(self._definitions.load(name)))

    def _look(self, stage: Stage) -> Outlook:
        try:
            if not stage.changed():
                return Outlook.CACHED
            return Outlook.RESTORE if not is_command(stage) or self._restorable(stage) else Outlook.RUN
        except LockError as error:
            self.locks.say(f"{stage.addressing} waits: {one_line(error)}")
            return Outlook.BUSY
        except BROKEN:
            raise
        except DvcException:
            return Outlook.RUN  # begin() meets the same error, and it belongs into the stage's own task

    def _restorable(self, stage: Stage) -> bool:
        """Whether the cache seems to have the outputs; with a remote, begin() finds out whether it has."""
        if not stage.changed_stage() and stage.deps_cached() and (self.shared or stage.outs_cached()):
            return True  # the entry in dvc.lock holds, only files are missing in the workspace
        probe = self._definitions.load(stage.addressing)
        probe.save_deps()
        for out in probe.outs:  # or DVC takes the outputs in dvc.lock for those of the inputs just saved
            out.clear()
        cache = self.repo.stage_cache
        try:
            entry = cache._load(probe)
        except AssertionError:  # no key can be made of this stage: no inputs, or outputs outside
            return False
        return bool(entry) and (self.shared or cache._create_stage(entry, wdir=probe.wdir).outs_cached())

    def begin(self, name: str, force: bool = False) -> Outlook | Work:
        """Settle the stage without running it where that can be done, else make it ready to run."""
        return self.locks.locked(lambda: self._begin(self._definitions.load(name), force))

    def _begin(self, stage: Stage, force: bool) -> Outlook | Work:
        if self.locks.cancelled.is_set():
            raise Cancelled("cancelled before it began")
        if not force and not stage.changed():
            return Outlook.CACHED
        if not is_command(stage):
            self._settle_source(stage)
            return Outlook.RESTORE
        stage.remove_outs(ignore_remove=False, force=False)
        if not force:
            with suppress(RunCacheNotFoundError):
                self.repo.stage_cache.restore(stage, pull=self.shared)
                stage.save_deps()
                self._record(stage)
                return Outlook.RESTORE
        stage.save_deps()
        return Work(stage, {str(dep): dep.hash_info for dep in stage.deps}, self.locks.hold(stage))

    def _settle_source(self, stage: Stage) -> None:
        """A .dvc file or a frozen stage: missing data comes from the cache, the rest is as `dvc repro` does it."""
        if any(not out.exists for out in stage.outs):
            if self.shared:
                self.repo.fetch(targets=[stage.addressing])
            if stage.outs_cached():
                stage.checkout()
                return
        stage.run()
        self._definitions.write(stage)

    def run(self, work: Work, log: Log, timeout: float | None = None, devices: Iterable[str] = ()) -> None:
        """Run the commands one after the other, their lines to log.

        Args:
            timeout: seconds for all of them.
            devices: the only ones that they see (CUDA_VISIBLE_DEVICES).

        Raises:
            StageFailed, Cancelled: the stage has been given up; dvc.lock is as it was.
        """
        kwargs = prepare_kwargs(work.stage)
        env = kwargs["env"] | {
            "PATH": os.pathsep.join([os.path.dirname(sys.executable), kwargs["env"].get("PATH", os.defpath)]),
            "CUDA_VISIBLE_DEVICES": ",".join(devices),
            "PYTHONUNBUFFERED": "1",  # a line is in the log when it is printed
        }
        end = time.monotonic() + timeout if timeout else None
        try:
            for text in _enforce_cmd_list(work.stage.cmd):
                log(f"> {text}")
                self._run_one(_make_cmd(get_executable(), text), env, kwargs["cwd"], log, end)
        except BaseException:
            self.locks.locked(lambda: self.locks.release(work.held), to_the_end=True)
            raise

    def _run_one(self, arguments: list[str], env: dict[str, str], cwd: str, log: Log, end: float | None) -> None:
        lines = Lines(log)
        command = Command(arguments, env, cwd)
        self._commands.add(command)
        if self.locks.cancelled.is_set():  # before cancel() could see this command
            command.stop()
        limit = threading.Timer(max(0.0, end - time.monotonic()) if end else threading.TIMEOUT_MAX, command.stop)
        limit.daemon = True
        limit.start()
        try:
            code = command.follow(lines)
        finally:
            limit.cancel()
            self._commands.discard(command)
        if self.locks.cancelled.is_set():
            raise Cancelled("cancelled while it ran")
        if end and time.monotonic() >= end:
            raise StageTimedOut("ran longer than meta.timeout allows" + (f": {lines.last}" if lines.last else ""))
        if code:
            ended = f" ({signal.Signals(code - 128).name})" if code - 128 in set(signal.Signals) else ""
            raise StageFailed(f"exit status {code}{ended}" + (f": {lines.last}" if lines.last else ""))

    def finish(self, work: Work) -> Record:
        """Record what has run: outputs to the cache, entries to run cache and dvc.lock. Waits for DVC's locks.

        Raises:
            InputsChanged: nothing was recorded.
        """
        stage = work.stage

        def record() -> Record:
            self.locks.release(work.held)  # commit() enters itself, under another name
            stage.save_deps()
            changed = [str(dep) for dep in stage.deps if work.before[str(dep)] != dep.hash_info]
            if changed:
                raise InputsChanged(f"{', '.join(changed)} changed while it ran: nothing recorded, run it again")
            self._record(stage)
            return Record.of(stage)

        return self.locks.locked(record, to_the_end=True)

    def cancel(self) -> None:
        """End every running command with all that descends from it, and begin no other."""
        self.locks.cancelled.set()
        for command in list(self._commands):
            command.stop()

    def learn(self) -> None:
        """Fetch from the default remote which runs other clones have recorded there."""
        with suppress(RunCacheNotSupported):  # over http
            self.locks.locked(lambda: self.repo.stage_cache.pull(None))

    def push(self) -> int:
        """Send outputs and run cache to the default remote, so that other clones restore; how many files went."""
        return self.locks.locked(lambda: self.repo.push(run_cache=True))

    def _record(self, stage: Stage) -> None:
        uncached = any(not out.use_cache for out in stage.outs if not (out.is_metric or out.is_plot))
        with self.repo.scm_context(quiet=True):
            stage.save_outs()  # this, as Stage.save() and Stage.run() do it
            stage.md5 = stage.compute_md5()
            if not uncached:
                self.repo.stage_cache.save(stage)
            stage.commit()
            self._definitions.write(stage)
