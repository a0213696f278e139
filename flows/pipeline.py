"""The Prefect flow that runs what is out of date in a DVC repository: DVC's graph, one task run a stage.

    python -m flows.pipeline --repo PATH [--targets NAME ...] [--slots N] [--force]

Exit status: 0 all stages are up to date, 1 stages failed, 2 refused before anything began, 130 cancelled. The last line
says how it ended.
"""

import argparse
import os
import sys
import time
from collections import Counter
from contextlib import chdir, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.context import FlowRunContext
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Crashed, Failed

from flows import artifacts
from flows.bridge import Bridge
from flows.graph import choose
from flows.machine import Machine, find_devices
from flows.processes import Unavailable
from flows.schedule import Outcome, Schedule, reason
from flows.server import ensure_server
from flows.workspace import Refused


@flow(persist_result=False)
def pipeline(
    repo: str = ".",
    targets: list[str] | None = None,
    phases: list[int] | None = None,
    groups: list[str] | None = None,
    slots: int | None = None,
    devices: list[str] | None = None,
    force: bool = False,
) -> State[Any]:
    """Bring stages of a DVC repository up to date, side by side.

    Args:
        repo: folder inside the repository.
        targets: stages, groups or .dvc files, as `dvc repro` takes them; all stages where none is named.
        phases: only stages of these (meta.phase), and what they need.
        groups: only stages of these (meta.group), and what they need.
        slots: how many threads run side by side, as stages declare them in meta.threads. Default: the number of CPUs.
        devices: values for CUDA_VISIBLE_DEVICES, each given to one stage at a time. Default: the GPUs of this machine.
        force: run the stages even if they are up to date.
    """
    begin = time.monotonic()
    log = get_run_logger()
    try:
        if slots is not None and slots < 1:
            raise Refused(f"slots must be 1 or more, not {slots}")
        bridge = Bridge(Path(repo), log.info)
        with chdir(bridge.root):
            graph = choose(bridge.graph(targets or []), phases or [], groups or [])
            machine = Machine(slots or len(os.sched_getaffinity(0)), find_devices() if devices is None else devices)
            schedule = Schedule(bridge, graph, machine, force)
            watchman = Watchman()
            with suppress(KeyboardInterrupt):  # cancels, too
                schedule.drive(watchman.stop)
            if bridge.shared and any(o.verdict in ("Completed", "Restored") for o in schedule.outcomes.values()):
                schedule.outcomes["push"] = _push(bridge)
            return _conclude(schedule, time.monotonic() - begin, watchman.orphaned)
    except Refused as error:
        log.error(str(error))
        return Failed(name="Refused", message=str(error))


class Watchman:
    """Sees what ends a run from outside: it, or a run that called it, is cancelled in the UI; its worker is gone."""

    def __init__(self) -> None:
        self.orphaned = False
        self._runs = {flow_run.id, flow_run.root_flow_run_id} - {None}
        above = psutil.Process().parents()
        self._worker = next((process for process in above if {"worker", "start"} <= set(process.cmdline())), None)

    def stop(self) -> bool:
        """Whether the run has to end."""
        if self._worker and not (self._worker.is_running() and self._worker.status() != psutil.STATUS_ZOMBIE):
            self.orphaned = True
            return True
        context = FlowRunContext.get()
        assert context
        assert isinstance(context.client, SyncPrefectClient)
        try:
            states = [context.client.read_flow_run(UUID(run)).state for run in self._runs]
        except httpx.HTTPError as error:  # stages need no server
            get_run_logger().warning("the Prefect server does not answer: %s", error)
            return False
        return any(state and state.type in (StateType.CANCELLING, StateType.CANCELLED) for state in states)


@task(name="push", task_run_name="push", cache_policy=NO_CACHE, persist_result=False, retries=2, retry_delay_seconds=10)
def push(bridge: Bridge) -> None:
    """Send what this run made to the default remote, so that another clone restores instead of executing."""
    get_run_logger().info("%d files went to the remote", bridge.push())


def _push(bridge: Bridge) -> Outcome:
    state = push(bridge, return_state=True)
    return Outcome(state.name or "", reason(state), failed=not state.is_completed())


def _conclude(schedule: Schedule, seconds: float, orphaned: bool) -> State[Any]:
    outcomes = schedule.outcomes
    rows = [
        {
            "stage": name,
            "verdict": outcome.verdict,
            "seconds": None if outcome.seconds is None else round(outcome.seconds, 1),
            "main metric": _main_metric(outcome.record) if outcome.record else "",
            "why": outcome.message if outcome.failed else "",
        }
        for name, outcome in outcomes.items()
    ]
    artifacts.summarise(rows)
    counts = Counter(outcomes[name].verdict for name in schedule.graph if name in outcomes)
    table = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()) or "none ended"
    message = f"{len(schedule.graph)} stages in {seconds:.1f} s: {table}"
    if orphaned:
        return Crashed(message=f"{message}; the worker that started this run is gone, and its stages were ended")
    if schedule.bridge.locks.cancelled.is_set():
        return Cancelled(message=message)
    broken = [f"{name}: {o.message}" for name, o in outcomes.items() if o.failed and o.verdict != "Skipped"]
    if broken:
        return Failed(message=f"{message}; {'; '.join(broken)}")
    return Completed(message=message)


def _main_metric(record: Any) -> str:
    name, value = next(artifacts.metrics(record), ("", None))
    return f"{name} {value:.4g}" if isinstance(value, (int, float)) else ""


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repo", default=".", metavar="PATH", help="folder inside the repository (default: .)")
    parser.add_argument("--targets", nargs="+", metavar="NAME", help="stages, groups or .dvc files (default: all)")
    parser.add_argument(
        "--phases", nargs="+", type=int, metavar="N", help="only stages of these phases, and what they need"
    )
    parser.add_argument("--groups", nargs="+", metavar="NAME", help="only stages of these groups, and what they need")
    parser.add_argument("--slots", type=int, metavar="N", help="threads side by side (default: the number of CPUs)")
    parser.add_argument("--devices", nargs="*", metavar="ID", help="GPUs to give out (default: those that there are)")
    parser.add_argument("--force", action="store_true", help="run the stages even if they are up to date")
    arguments = vars(parser.parse_args())
    try:
        Bridge(Path(arguments["repo"]))  # refuse before a server is started
        ensure_server()
    except (Refused, Unavailable) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    state = pipeline(**arguments, return_state=True)
    print(f"{state.name}: {state.message}")
    if state.name == "Refused":
        return 2
    return {StateType.COMPLETED: 0, StateType.CANCELLED: 130}.get(state.type, 1)


if __name__ == "__main__":
    sys.exit(main())
