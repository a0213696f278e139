"""The Prefect server and worker of this checkout: found, or started.

What answers at PREFECT_API_URL, or at the port, is used as it is. A started server keeps its SQLite database beside its
log and its pid file (flows/processes.py). Nothing here imports Prefect at the top, because Prefect reads its settings
from the environment while it is imported.
"""

import os
import sys
import time
from collections.abc import Callable

import httpx

from flows.processes import Started, Unavailable, last_line, log, start, started, starting, stop, taken
from flows.workspace import ROOT

READY_SECONDS = 600  # a first start makes the database, 22 s of CPU: once 220 s on two cores with eight users
BUSY_SECONDS = 30  # a server beside stages that take every core was silent for 15
TELL_SECONDS = 15  # between two lines while it starts
HEARTBEAT_SECONDS = 30  # Prefect's minimum
SILENT_SECONDS = 90  # three heartbeats missed: with the trigger's own delay of some seconds, well within three minutes

SETTINGS = {
    "PREFECT_HOME": str(ROOT / ".store" / "prefect"),
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",  # a server inside each process: 29 s instead of 1.6 s for 20 stages
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # task runs in batches, each second: one by one they meet other writes in SQLite, and once in 30 runs of 20 short
    # stages all stood still until a lock timed out after 60 s
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    "PREFECT_WORKER_QUERY_SECONDS": "2",  # how long a run waits for a worker that is idle; Prefect's own is 10
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
}

# https://docs.prefect.io/v3/advanced/detect-zombie-flows. Any event of the run disarms it (`prefect.flow-run.*`): they
# carry the state's name, which a flow is free to choose.
CRASH_SILENT_RUNS = {
    "name": "crash-silent-runs",
    "description": "A run that sends no heartbeat has lost its process: mark it Crashed",
    "trigger": {
        "type": "event",
        "match": {"prefect.resource.id": ["prefect.flow-run.*"]},
        "for_each": ["prefect.resource.id"],
        "after": [
            "prefect.flow-run.heartbeat",
            "prefect.flow-run.Submitting",
        ],  # before the first heartbeat it may die too
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


def ensure_server(port: int | None = None, say: Callable[[str], None] = print) -> str:
    """The API address of a Prefect server that answers; a local one is started when none does.

    Sets the environment (PREFECT_API_URL and SETTINGS, where not set) for this process and its children.

    Args:
        port: where to look, or start, on 127.0.0.1. Default: PREFECT_SERVER_API_PORT, else where the server of this
            checkout runs, else 4200. Ignored if PREFECT_API_URL is set.
        say: gets a line when a server has to be started, and where its log is.

    Raises:
        Unavailable: PREFECT_API_URL does not answer, another program has the port, or the server did not start.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    url = address(port)
    if "PREFECT_API_URL" not in os.environ:
        with starting():
            _start_unless_there(url, say)
    elif not answers(url):
        raise Unavailable(f"PREFECT_API_URL={url} does not answer: start that server, or unset PREFECT_API_URL")
    os.environ["PREFECT_API_URL"] = url
    if "prefect" in sys.modules:  # imported before: make it read the environment again
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
    return url


def address(port: int | None = None) -> str:
    """The API address where `ensure_server` looks, and starts a server if there is none."""
    if "PREFECT_API_URL" in os.environ:
        return os.environ["PREFECT_API_URL"].rstrip("/")
    port = port or int(os.environ.get("PREFECT_SERVER_API_PORT", "0")) or None
    own = started("server")
    if own and port and own.url != _url(port):
        raise Unavailable(f"this checkout's server runs at {own.url}: leave the port out, or `make stop` first")
    return own.url if own else _url(port or 4200)


class Again(httpx.HTTPTransport):
    """Asks again where the server says 503: its SQLite was locked, and nothing was done."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        for pause in (0.5, 1, 2, 4, 8, 16):
            response = super().handle_request(request)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return response
            response.close()
            time.sleep(pause)
        return super().handle_request(request)


def client(url: str) -> httpx.Client:
    """Plain HTTP to the API, with the key of a server that asks for one."""
    key = os.environ.get("PREFECT_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=url, timeout=2 * BUSY_SECONDS, headers=headers, transport=Again())


def _start_unless_there(url: str, say: Callable[[str], None]) -> None:
    if answers(url):
        return
    own = started("server")
    if not own:
        place = httpx.URL(url)
        if taken(url):
            raise Unavailable(f"port {place.port} is in use by another program: choose a free one (PORT=4300)")
        arguments = ["prefect", "server", "start", "--host", place.host, "--port", str(place.port)]
        own = start("server", arguments, url, PREFECT_API_URL=url)  # its pages call 4200 otherwise
    _wait_until_ready(own, say)
    with client(url) as api:
        create_automation(api)


def _wait_until_ready(server: Started, say: Callable[[str], None]) -> None:
    say(f"Prefect server: starting at {server.url.removesuffix('/api')} (log: {log('server')})")
    begin = told = time.monotonic()
    while not answers(server.url):
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            say(f"Prefect server: still starting after {told - begin:.0f} s")
        if not server.alive():
            raise Unavailable(
                f"the Prefect server ended while starting: {last_line(log('server'))} (log: {log('server')})"
            )
        if time.monotonic() - begin > READY_SECONDS:
            stop("server")
            raise Unavailable(f"the Prefect server was not ready after {READY_SECONDS} s: see {log('server')}")
        time.sleep(0.3)
    say(f"Prefect server: ready after {time.monotonic() - begin:.0f} s")


def ensure_worker(url: str, pool: str) -> Started:
    """The worker of this checkout that polls the pool, started if there is none."""
    with starting():
        own = started("worker")
        if own and own.url == url:
            return own
        stop("worker")  # it polls a server that is no longer used
        return start(
            "worker",
            ["prefect", "worker", "start", "--pool", pool, "--type", "process", "--name", f"local-{os.getpid()}"],
            url,
            PREFECT_API_URL=url,
        )


def answers(url: str) -> bool:
    """Whether a Prefect API answers at this address."""
    try:
        reply = httpx.get(f"{url}/health", timeout=BUSY_SECONDS)
        return reply.status_code == 200 and reply.json() is True
    except (httpx.HTTPError, ValueError):
        return False


def create_automation(api: httpx.Client) -> None:
    """Have the server mark silent runs Crashed, if it does not yet."""
    name = CRASH_SILENT_RUNS["name"]
    known = api.post("/automations/filter", json={"automations": {"name": {"any_": [name]}}}).raise_for_status()
    if not known.json():
        api.post("/automations/", json=CRASH_SILENT_RUNS).raise_for_status()


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}/api"
