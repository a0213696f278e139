"""DVC's two locks, for many threads of one process and beside other DVC processes.

The repository lock (.dvc/tmp/lock) serialises every call into DVC; within this process a mutex stands around it,
because DVC is not safe between threads. The read-write lock (.dvc/tmp/rwlock, a JSON file of paths, process ids and
names) says which files a running command reads and writes; entries of dead processes are dropped by whoever looks next.
What others hold is waited for, without an end but saying so: `dvc repro` gives up after three seconds, and the work of
a finished stage is lost.
"""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

from dvc.dependency.db import AbstractDependency
from dvc.dependency.repo import RepoDependency
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo
from dvc.rwlock import RWLockFileCorruptedError, RWLockFileFormatError, rwlock
from dvc.stage import Stage

from flows.graph import one_line

T = TypeVar("T")
BROKEN = (RWLockFileCorruptedError, RWLockFileFormatError)  # left by a disk that was full
AGAIN = 0.2  # seconds


class Cancelled(RuntimeError):
    """The flow was cancelled before the stage had ended."""


class Locks:
    """The locks of one repository.

    Args:
        log: gets a line when something has to be waited for.
    """

    def __init__(self, repo: Repo, log: Callable[[str], None]) -> None:
        assert repo.tmp_dir
        self._config = repo.config
        self.cancelled = threading.Event()
        self._repo = repo
        self._log = log
        self._mutex = threading.RLock()
        self._lock = Path(repo.tmp_dir, "lock")
        self._rwlock = Path(repo.tmp_dir, "rwlock")
        self._said: set[str] = set()

    def locked(self, work: Callable[[], T], to_the_end: bool = False) -> T:
        """The work under the mutex and the repository lock, again for as long as another DVC process is in its way.

        Args:
            work: may be run again from its beginning.
            to_the_end: wait even if the flow is cancelled meanwhile: the work records what has been done.

        Raises:
            Cancelled: while waiting.
        """
        while True:
            try:
                with self._mutex, lock_repo(self._repo):
                    self._repo.__dict__["config"] = self._config  # or DVC reads four files again, each time
                    return work()
            except LockError as error:
                self.say(f"waiting for another DVC process: {one_line(error)} ({self._holder()})")
            except BROKEN:
                self._drop()
            if self.cancelled.is_set() and not to_the_end:
                raise Cancelled("cancelled while waiting for DVC's lock")
            time.sleep(AGAIN)

    def hold(self, stage: Stage) -> ExitStack:
        """Enter a stage that will run into the read-write lock: DVC by hand then refuses its files as busy."""
        read = [dep.fs_path for dep in stage.deps if not isinstance(dep, (RepoDependency, AbstractDependency))]
        write = [out.fs_path for out in stage.outs]
        hardlink = self._repo.config["core"].get("hardlink_lock", False)
        held = ExitStack()  # a name of its own: entries are told apart by process id and name
        held.enter_context(
            rwlock(self._repo.tmp_dir, self._repo.fs, f"flow: {stage.addressing}", read, write, hardlink)
        )
        return held

    def release(self, held: ExitStack) -> None:
        """Take the entries out again; under the repository lock."""
        try:
            held.close()
        except (AssertionError, KeyError, OSError, *BROKEN):  # the file is broken, or another one than before
            self._drop()

    def say(self, line: str) -> None:
        """Log a line once."""
        if line not in self._said:
            self._said.add(line)
            self._log(line)

    def _drop(self) -> None:
        self.say(f"{self._rwlock} cannot be read or written: removed")
        self._rwlock.unlink(missing_ok=True)

    def _holder(self) -> str:
        with suppress(OSError, UnicodeDecodeError, IndexError):
            return f"{self._lock} was taken last by process {self._lock.read_text().split()[0]}"
        return f"{self._lock}: remove it if no DVC process runs"
