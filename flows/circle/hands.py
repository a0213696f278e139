"""What a person or a service does in the circle: start servers, train, register, deploy, look, and spoil a version."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from flows import processes, server
from flows.deployments import register, start
from flows.releases import registry
from flows.watch import FINAL, Watch
from flows.workspace import ROOT, SERVING, branch_workspace, git

NAME = "text"
HOST = "127.0.0.1"
MODEL = "models/optimise/text"
STAGE = "optimise@text"
ENDED = re.compile(r"Task run '(\S+)' - Finished in state")  # Prefect's words on a stage
Until = Callable[..., Any]
Say = Callable[[str], None]


class Broken(RuntimeError):
    """The circle does not go on; one line."""


def command(*arguments: str, folder: Path = ROOT, hear: Say | None = None) -> str:
    """What `python -m ARGUMENTS` prints, told to `hear` line by line. Broken: it fails, with its last line."""
    lines: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            lines.append(line)
            if hear:
                hear(line)
    if process.returncode:
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        raise Broken(f"{' '.join(arguments)} ended with {process.returncode}: {last}")
    return "".join(lines)


def tsumugi(*arguments: str) -> str:
    """What the command `tsumugi ARGUMENTS` prints."""
    return command("flows.cli", *arguments)


def prefect(say: Say) -> str:
    """Prefect's server on a free port; its API address."""
    return server.ensure_server(free_port(), lambda line: say(f"    {line}"))


def first_version(output: Path, say: Say) -> str:
    """Train what the classifier needs, commit, register, deploy; the version."""
    (output / "logs").mkdir()
    with (output / "logs" / "first.log").open("w") as log:

        def hear(line: str) -> None:
            log.write(line)
            if ended := ENDED.search(line):
                say(f"    {ended[1]}")

        command("flows.pipeline", "--repo", ".", "--targets", STAGE, hear=hear)
    git(ROOT, "add", "dvc.lock")
    git(ROOT, "commit", "-q", "-m", "Train the first version")
    version = registry.register(ROOT, NAME, "main")
    git(ROOT, "push", "-q", "origin", "main", f"refs/tags/{NAME}@{version}")
    tsumugi("deploy", NAME, version)
    return version


def serve(until: Until, say: Say) -> str:
    """The models' server, ready; its address."""
    port = free_port()
    arguments = ["--serving", str(SERVING), "--keys", "none", "--host", HOST, "--port", str(port)]
    own = processes.ensure_serving(["flows.stages.serving", *arguments], HOST, port, lambda line: say(f"    {line}"))
    until(lambda: httpx.get(f"{own.url}/readyz", timeout=60).status_code == httpx.codes.OK, "the models' server")
    return own.url


def worker(url: str) -> None:
    """Deployments, with their automations, and a worker that runs them."""
    with server.client(url) as client:
        server.ensure_worker(url, register(client, ROOT))


def watch(url: str, until: Until) -> list[dict[str, Any]]:
    """A run of the deployment `watch`, to its end; what has called for a retraining since the beginning."""
    with server.client(url) as client:
        place = f"/flow_runs/{start(client, 'watch/watch')['id']}"
        ended = until(lambda: _ended(client, place), "the watch")
        if ended["state_type"] != "COMPLETED":
            raise Broken(f"the watch has ended as {ended['state_name']}: {ended['state']['message']}")
        told = ROOT / ".store" / "continuous" / NAME / "told.json"
        expected = len(json.loads(told.read_text())) if told.exists() else 0
        return until(lambda: _known(client, expected), "the events") if expected else []


def _ended(client: httpx.Client, place: str) -> dict[str, Any] | None:
    run = client.get(place).raise_for_status().json()
    return run if run["state_type"] in FINAL else None


def _known(client: httpx.Client, expected: int) -> list[dict[str, Any]] | None:
    """Events that call for a retraining, oldest first, once there are as many."""
    wanted = {"filter": {"event": {"prefix": ["tsumugi."]}, "order": "ASC"}, "limit": 50}
    events = client.post("/events/filter", json=wanted).raise_for_status().json()["events"]
    found = [{"event": each["event"], "occurred": each["occurred"], "payload": each["payload"]} for each in events]
    return found if len(found) >= expected else None


def retraining(url: str, until: Until) -> list[dict[str, Any]]:
    """Follow the runs that the events have started until all have ended: what started each, and how it ended."""
    with server.client(url) as client:
        working = until(lambda: next((run for run in _runs(client) if _at_work(client, run)), None), "a retraining")
        watch = Watch(client, working["id"], Console(highlight=False, soft_wrap=True, width=160))
        if watch.follow() != "COMPLETED":
            watch.explain()
        return until(lambda: _all_ended(_runs(client)), "the other runs")


def _runs(client: httpx.Client) -> list[dict[str, Any]]:
    wanted = {"deployments": {"name": {"any_": ["continuous"]}}, "sort": "EXPECTED_START_TIME_ASC"}
    return client.post("/flow_runs/filter", json=wanted).raise_for_status().json()


def _all_ended(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What started each run, and how it ended; nothing while one has not."""
    if any(run["state_type"] not in FINAL for run in runs):
        return []
    return [
        {"reason": run["parameters"]["reason"], "state": run["state_name"], "message": run["state"]["message"]}
        for run in runs
    ]


def _at_work(client: httpx.Client, run: dict[str, Any]) -> bool:
    """Whether a run has the model's lock: those that only join it have no task."""
    tasks = {"flow_runs": {"id": {"any_": [run["id"]]}}}
    return bool(client.post("/task_runs/filter", json=tasks).raise_for_status().json())


def slipped() -> str:
    """Register a version whose list of classes has slipped by one: it loads, answers, and is wrong; the version.

    It is made beside the graph, as a hasty hand would do it: no gate has seen it.
    """
    folder = ROOT / "runs" / "slipped"
    branch_workspace(ROOT, folder, "main", "slipped")
    command("dvc", "checkout", "-q", "--with-deps", STAGE, folder=folder)
    path = folder / MODEL / "config.json"
    config = json.loads(path.read_text())
    config["classes"] = config["classes"][1:] + config["classes"][:1]
    path.write_text(json.dumps(config))
    command("dvc", "commit", "-q", "--force", STAGE, folder=folder)
    git(folder, "commit", "-q", "-a", "-m", "Mend the classes by hand")
    git(ROOT, "fetch", "-q", str(folder), "slipped:slipped")
    return registry.register(ROOT, NAME, "slipped")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
