"""The Prefect server and worker of this checkout: found, or started and later stopped by pid file.

What answers at PREFECT_API_URL, or at the port, is used as it is; only what was started here is ever stopped. Everything that a
started server keeps (SQLite database, logs, pid files) lies under `.store/prefect`, unless PREFECT_HOME says otherwise. Nothing
in this file imports Prefect, because Prefect reads its settings from the environment while it is imported: call `ensure_server`
first. A pid alone proves nothing after a reboot, so a pid file also holds the moment when that process was born.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
READY_SECONDS = 180  # a first start on a busy machine took 28 s, and migrates an empty database before it listens
HEARTBEAT_SECONDS = 30  # Prefect's minimum
SILENT_SECONDS = 90  # three heartbeats missed: with the trigger's own delay of some seconds, well within three minutes

SETTINGS = {
    "PREFECT_HOME": str(ROOT / ".store" / "prefect"),
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",  # a server inside each process: 29 s instead of 1.6 s for 20 stages
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
}

# https://docs.prefect.io/v3/advanced/detect-zombie-flows. Any event of the run disarms it (`prefect.flow-run.*`): events carry
# the state's name, which a flow is free to choose.
CRASH_SILENT_RUNS = {
    "name": "crash-silent-runs",
    "description": "A run that sends no heartbeat has lost its process: mark it Crashed",
    "trigger": {
        "type": "event",
        "match": {"prefect.resource.id": ["prefect.flow-run.*"]},
        "for_each": ["prefect.resource.id"],
        "after": ["prefect.flow-run.heartbeat"],
        "expect": ["prefect.flow-run.*"],
        "posture": "Proactive",
        "threshold": 1,
        "within": SILENT_SECONDS,
    },
    "actions": [
        {
            "type": "change-flow-run-state",
            "state": "CRASHED",
            "message": f"no heartbeat for {SILENT_SECONDS} s: the process of this run is gone",
        }
    ],
}


class Unavailable(RuntimeError):
    """No server can be had; one line with the reason and the remedy."""


@dataclass(frozen=True)
class Started:
    """A process that was started here, as its pid file tells it."""

    name: str  # "server" or "worker"
    pid: int
    born: float  # seconds since the epoch, as the kernel tells it
    url: str  # API address that it serves, or polls

    def alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.born and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def home() -> Path:
    """Where Prefect keeps its database, and this project its logs and pid files."""
    return Path(os.environ.get("PREFECT_HOME", SETTINGS["PREFECT_HOME"]))


def ensure_server(port: int | None = None, say: Callable[[str], None] = print) -> str:
    """The API address of a Prefect server that answers; a local one is started when none does.

    Sets the environment (PREFECT_API_URL and SETTINGS, where not set) for this process and its children.

    Args:
        port: where to look, or start, on 127.0.0.1. Default: PREFECT_SERVER_API_PORT, else where the server of this checkout
            runs, else 4200. Ignored if PREFECT_API_URL is set.
        say: gets a line when a server has to be started, and where its log is.

    Raises:
        Unavailable: PREFECT_API_URL does not answer, another program has the port, or the server did not start.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    given = os.environ.get("PREFECT_API_URL")
    if given:
        if not answers(given):
            raise Unavailable(f"PREFECT_API_URL={given} does not answer: start that server, or unset PREFECT_API_URL")
        url = given
    else:
        with _alone():
            url = _find_or_start(port, say)
        os.environ["PREFECT_API_URL"] = url
    if "prefect" in sys.modules:  # imported before: make it read the environment again
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
    return url


def _find_or_start(port: int | None, say: Callable[[str], None]) -> str:
    own = started("server")
    port = port or int(os.environ.get("PREFECT_SERVER_API_PORT", "0")) or None
    if own and port and own.url != _url(port):
        raise Unavailable(f"this checkout's server runs at {own.url}: leave the port out, or `make stop` first")
    url = own.url if own else _url(port or 4200)
    if answers(url):
        return url
    if not own:
        if _taken(url):
            raise Unavailable(f"port {port or 4200} is in use by another program: choose a free one (PORT=4300)")
        host, number = httpx.URL(url).host, str(httpx.URL(url).port)
        own = start("server", ["server", "start", "--host", host, "--port", number], url)
    _wait_until_ready(own, say)
    _create_automation(url)
    return url


def _wait_until_ready(server: Started, say: Callable[[str], None]) -> None:
    say(f"Prefect server: starting at {server.url.removesuffix('/api')} (log: {log('server')})")
    begin = time.monotonic()
    while not answers(server.url):
        if not server.alive():
            raise Unavailable(
                f"the Prefect server ended while starting: {_last_line(log('server'))} (log: {log('server')})"
            )
        if time.monotonic() - begin > READY_SECONDS:
            stop("server")
            raise Unavailable(f"the Prefect server was not ready after {READY_SECONDS} s: see {log('server')}")
        time.sleep(0.3)
    say(f"Prefect server: ready after {time.monotonic() - begin:.0f} s")


def ensure_worker(url: str, pool: str) -> Started:
    """The worker of this checkout that polls the pool, started if there is none."""
    with _alone():
        own = started("worker")
        if own and own.url == url:
            return own
        stop("worker")  # it polls a server that is no longer used
        return start(
            "worker", ["worker", "start", "--pool", pool, "--type", "process", "--name", f"local-{os.getpid()}"], url
        )


def start(name: str, arguments: list[str], url: str) -> Started:
    """Start `prefect ARGUMENTS` in a session of its own, logged to NAME.log, and write its pid file."""
    home().mkdir(parents=True, exist_ok=True)
    with log(name).open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *arguments],
            env=os.environ | {"PREFECT_API_URL": url},  # the server too: its pages call 4200 otherwise
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    own = Started(name, process.pid, psutil.Process(process.pid).create_time(), url)
    _pid_file(name).write_text(json.dumps(asdict(own)))
    return own


def started(name: str) -> Started | None:
    """The server or worker that was started here, if it is still alive."""
    try:
        own = Started(**json.loads(_pid_file(name).read_text()))
    except FileNotFoundError:
        return None
    return own if own.alive() else None


def stop(name: str, patience: float = 30) -> Started | None:
    """End what was started here (SIGTERM to its session's group, SIGKILL after `patience` seconds); None if nothing ran."""
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


def answers(url: str) -> bool:
    """Whether a Prefect API answers at this address."""
    try:
        reply = httpx.get(f"{url}/health", timeout=5)
        return reply.status_code == 200 and reply.json() is True
    except (httpx.HTTPError, ValueError):
        return False


def log(name: str) -> Path:
    """The log file of the server or the worker."""
    return home() / f"{name}.log"


def _create_automation(url: str) -> None:
    name = CRASH_SILENT_RUNS["name"]
    with httpx.Client(base_url=url, timeout=30) as client:
        known = client.post("/automations/filter", json={"automations": {"name": {"any_": [name]}}})
        known.raise_for_status()
        if not known.json():
            client.post("/automations/", json=CRASH_SILENT_RUNS).raise_for_status()


def _pid_file(name: str) -> Path:
    return home() / f"{name}.pid.json"


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}/api"


def _taken(url: str) -> bool:
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((httpx.URL(url).host, httpx.URL(url).port)) == 0


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


@contextmanager
def _alone() -> Iterator[None]:
    """Two runs started at once must not start two servers on one database."""
    home().mkdir(parents=True, exist_ok=True)
    with (home() / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
