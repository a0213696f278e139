"""Processes that outlive the command which started them: found again, and stopped, by pid file.

Pid files and logs lie under `.store/prefect`, or in PREFECT_HOME. A pid alone proves nothing after a reboot, so a pid
file also holds the moment when that process was born. Only what was started here is ever stopped.
"""

import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

from flows.workspace import ROOT


class Unavailable(RuntimeError):
    """What was to be started, or to answer, does not; one line with the reason and the remedy."""


@dataclass(frozen=True)
class Started:
    """A process that was started here, as its pid file tells it."""

    name: str  # "server" or "worker" (Prefect's), or "serving"
    pid: int
    born: float  # seconds since the epoch, as the kernel tells it
    url: str  # address that it serves, or polls

    def alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.born and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def home() -> Path:
    """Where Prefect keeps its database, and this project its logs and pid files."""
    return Path(os.environ.get("PREFECT_HOME", ROOT / ".store" / "prefect"))


def start(name: str, arguments: list[str], url: str, **variables: str) -> Started:
    """Start `python -m ARGUMENTS` with these variables in its own session, log it to NAME.log, write its pid file."""
    home().mkdir(parents=True, exist_ok=True)
    pid = os.posix_spawn(  # it outlives this process, of which a Popen object would complain
        sys.executable,
        [sys.executable, "-m", *arguments],
        os.environ | variables,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    own = Started(name, pid, psutil.Process(pid).create_time(), url)
    _pid_file(name).write_text(json.dumps(asdict(own)))
    return own


def started(name: str) -> Started | None:
    """The process of this name that was started here, if it is still alive."""
    try:
        own = Started(**json.loads(_pid_file(name).read_text()))
    except FileNotFoundError:
        return None
    return own if own.alive() else None


def stop(name: str, patience: float = 30) -> Started | None:
    """End what was started here: SIGTERM to its process group, SIGKILL after `patience` seconds.

    Returns what ran, or None.
    """
    own = started(name)
    if own:
        process = psutil.Process(own.pid)
        for kind, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5)):
            try:
                os.killpg(own.pid, kind)
                process.wait(seconds)
                break
            except (ProcessLookupError, psutil.NoSuchProcess):
                break
            except psutil.TimeoutExpired:
                continue
    _pid_file(name).unlink(missing_ok=True)
    return own


def log(name: str) -> Path:
    """The log file of what was started under this name."""
    return home() / f"{name}.log"


def ensure_serving(arguments: list[str], host: str, port: int, say: Callable[[str], None]) -> Started:
    """The models' server of this checkout, started if there is none.

    Args:
        arguments: of `python -m`, as flows/stages/serving.py takes them.

    Raises:
        Unavailable: one runs with other arguments, another program has the port, or the server ended while it started.
    """
    with starting():
        own = started("serving")
        if own:
            if (given := psutil.Process(own.pid).cmdline()[2:]) != arguments:  # behind `python -m`
                raise Unavailable(f"the models' server runs otherwise ({' '.join(given)}): `tsumugi stop` first")
            return own
        url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
        if taken(url):
            raise Unavailable(f"port {port} is in use by another program: choose a free one (--port)")
        own = start("serving", arguments, url)
        say(f"models' server: starting at {url} (log: {log('serving')})")
        while not taken(url):
            if not own.alive():
                raise Unavailable(f"the models' server ended: {last_line(log('serving'))} (log: {log('serving')})")
            time.sleep(0.3)
        return own


def _pid_file(name: str) -> Path:
    return home() / f"{name}.pid.json"


def taken(url: str) -> bool:
    """Whether anybody listens at the address."""
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((httpx.URL(url).host, httpx.URL(url).port)) == 0


def last_line(path: Path) -> str:
    """What a process said last, by its log."""
    lines = path.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def starting() -> AbstractContextManager[bool]:
    """Two runs started at once must not start two servers on one database."""
    return alone(home() / "start.lock")


@contextmanager
def alone(lock: Path, wait: bool = True) -> Iterator[bool]:
    """Of several processes only one at a time is in here; a killed one leaves the lock free.

    Yields whether this one holds it, which is false only without `wait`, where another does.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
