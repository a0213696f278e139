"""Follows a flow run over the API: a line a stage, a live view on a terminal, a failed stage's last words.

It speaks plain HTTP, because importing Prefect's client takes as long as a run in which everything is cached.
"""

import re
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import httpx
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from flows.processes import Unavailable, log, started

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")  # https://docs.prefect.io/v3/concepts/states
BROKEN = ("FAILED", "CRASHED")
POLL_SECONDS = 1.0
SETTLE_SECONDS = 10.0  # task runs and log lines reach the API in batches, some time after the run's own last state
SILENT_SECONDS = 180  # how long a server that stages leave no time to is put up with
LAST_LINES = 15
NEWLINE = "\n"
PREFIX = re.compile(r"^(Task|Flow) run encountered an exception:? (\w+: )?")  # the message is what matters


class Watch:
    """One flow run with the task runs of it and of the flows that it calls."""

    def __init__(self, client: httpx.Client, run: str, console: Console) -> None:
        self.client = client
        self.run = run
        self.console = console
        self.flow_run: dict[str, Any] = {}
        self.tasks: dict[str, dict[str, Any]] = {}
        self._said: dict[str, str] = {}  # task run -> state that a line was printed for
        self._begin = self._heard = self._final = time.monotonic()

    def follow(self) -> str:
        """Print what happens until the run has ended; its final state's type.

        Raises:
            Unavailable: the worker of this checkout ended before it took the run.
        """
        with Live(console=self.console, auto_refresh=False, transient=True) as live:
            while True:
                if not self._read():
                    continue
                self._say_changes()
                live.update(self._view(), refresh=self.console.is_terminal)
                if self._ended():
                    return self.flow_run["state_type"]
                if self.flow_run["state_type"] == "SCHEDULED" and not started("worker"):
                    raise Unavailable(f"the worker ended before it took the run: see {log('worker')}")
                time.sleep(POLL_SECONDS)

    def cancel(self) -> None:
        """Ask for the run's end; the worker stops it, and the run its stages."""
        self._post(
            f"/flow_runs/{self.run}/set_state", {"state": {"type": "CANCELLING", "message": "cancelled by its starter"}}
        )

    def summary(self) -> str:
        """One line: how the run ended, and how many stages ended how."""
        counts = Counter(sorted(task["state_name"] for task in self.tasks.values()))
        stages = ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "no stage"
        return f"{self.flow_run['state_name']} in {_clock(time.monotonic() - self._begin)}: {stages}"

    def explain(self) -> None:
        """Print which stages failed, why, and their last log lines; the flow's own when it was none of them."""
        broken = [
            task for task in self.tasks.values() if task["state_type"] in BROKEN and task["state_name"] != "Skipped"
        ]
        for task in broken:
            self._explain(task["name"], task, {"task_run_id": {"any_": [task["id"]]}})
        if not broken:
            self._explain("the run", self.flow_run, {"flow_run_id": {"any_": [self.run]}})

    def _explain(self, name: str, run: dict[str, Any], logs: dict[str, Any]) -> None:
        message = PREFIX.sub("", run["state"].get("message") or "").strip().partition(NEWLINE)[0]
        self.console.print(Text(f"{run['state_name']}: {name}: {message}", style="red"))
        end = time.monotonic() + SETTLE_SECONDS
        query = {"logs": logs, "sort": "TIMESTAMP_DESC", "limit": LAST_LINES}
        while not (lines := self._post("/logs/filter", query)) and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        for line in reversed(lines):
            self.console.print(Text(f"    {line['message'].partition(NEWLINE)[0]}"))  # no tracebacks

    def _read(self) -> bool:
        """Fetch the run's state; False if the server did not answer this time."""
        try:
            self._fetch()
        except httpx.TransportError as error:
            if time.monotonic() - self._heard > SILENT_SECONDS:
                raise Unavailable(f"the Prefect server has not answered for {SILENT_SECONDS} s ({error})") from error
            time.sleep(POLL_SECONDS)
            return False
        self._heard = time.monotonic()
        return True

    def _fetch(self) -> None:
        self.flow_run = self._get(f"/flow_runs/{self.run}")
        inner = self._post("/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [self.run]}}})
        runs = [self.run, *(run["id"] for run in inner)]
        # a flow that is called shows as a task run of its caller: stages only
        own = {"flow_runs": {"id": {"any_": runs}}, "task_runs": {"subflow_runs": {"exists_": False}}}
        for task in self._post("/task_runs/filter", own):
            self.tasks[task["id"]] = task

    def _ended(self) -> bool:
        """Whether the run, and every task run of one that completed, is in a final state."""
        if self.flow_run["state_type"] not in FINAL:
            self._final = time.monotonic()
            return False
        settled = all(task["state_type"] in FINAL for task in self.tasks.values())
        complete = len(self.tasks) >= _told(self.flow_run["state"].get("message") or "")
        return (settled and complete) or time.monotonic() - self._final > SETTLE_SECONDS

    def _say_changes(self) -> None:
        for task in self.tasks.values():
            name, kind = task["state_name"], task["state_type"]
            if self._said.get(task["id"]) == name or name == "Cached":
                continue
            self._said[task["id"]] = name
            if kind in FINAL:
                style = "green" if kind == "COMPLETED" else "red"
                self.console.print(
                    Text(f"{name:>10}  ", style).append(f"{task['name']}  {_clock(_seconds(task))}", "default")
                )
            elif kind == "RUNNING" and not self.console.is_terminal:
                self.console.print(Text(f"{name:>10}  {task['name']}"))

    def _view(self) -> RenderableType:
        running = [task for task in self.tasks.values() if task["state_type"] == "RUNNING"]
        done = Counter(task["state_name"] for task in self.tasks.values() if task["state_type"] in FINAL)
        counts = ", ".join(f"{count} {name}" for name, count in done.most_common())
        lines = [Text(f"   Running  {task['name']}  {_clock(_seconds(task))}", "cyan") for task in running]
        state = self.flow_run["state_name"]
        lines.append(Text(f"{state} for {_clock(time.monotonic() - self._begin)}; {counts or 'no stage yet'}", "dim"))
        return Group(*lines)

    def _get(self, path: str) -> Any:
        return self.client.get(path).raise_for_status().json()

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self.client.post(path, json=body).raise_for_status().json()


def _told(message: str) -> int:
    """How many stages ended, as the pipeline's last words count them: "3 stages in 1.2 s: 2 Completed, 1 Cached"."""
    table = re.match(r"\d+ stages in [\d.]+ s: ([^;]*)", message)
    return sum(int(count) for count in re.findall(r"\d+", table[1])) if table else 0


def _seconds(task: dict[str, Any]) -> float:
    if not task["start_time"]:
        return 0.0
    end = datetime.fromisoformat(task["end_time"]) if task["end_time"] else datetime.now(UTC)
    return max(0.0, (end - datetime.fromisoformat(task["start_time"])).total_seconds())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
