"""Submits the stages of a graph to Prefect, each when all before it have ended and it fits on the machine.

Prefect's usual way, to submit every task at once with `wait_for`, lets blocked tasks take the workers that ready ones
need, and a limit by tag costs a second a task. Here the flow's own thread decides, and a task run stands for a stage
that really runs. Stages that are up to date become task runs too, so that the UI shows the whole graph, but they take
no slot. A stage ends as Completed, `Cached`, `Restored` (from DVC's caches), Failed, `TimedOut`, Cancelled, or
`Skipped` with the name of the stage that failed before it.
"""

import queue
import time
from dataclasses import dataclass
from typing import Any

from prefect import allow_failure, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Cancelled as CancelledState
from prefect.states import Completed, Failed
from prefect.tasks import exponential_backoff

from flows import artifacts
from flows.bridge import Bridge, Outlook, StageFailed
from flows.graph import Node, Record
from flows.locks import AGAIN, Cancelled
from flows.machine import Grant, Machine

LOOK = 2.0  # seconds between two looks at what nobody announces


@dataclass
class Outcome:
    """How a stage ended."""

    verdict: str  # the name of its task run's state
    message: str = ""
    failed: bool = True
    seconds: float | None = None  # None: it did not run
    record: Record | None = None  # None: it did not end well


class Schedule:
    """One run over a graph, inside a flow run.

    Args:
        graph: upstream first, as Bridge.graph() gives it.
        force: run the stages even if they are up to date.
    """

    def __init__(self, bridge: Bridge, graph: dict[str, Node], machine: Machine, force: bool) -> None:
        self.bridge = bridge
        self.graph = graph
        self.machine = machine
        self.force = force
        self.outcomes: dict[str, Outcome] = {}
        self.records: dict[str, Record] = {}  # of stages that ran or were restored, written by their tasks
        self._outlooks: dict[str, Outlook] = {}
        self._grants: dict[str, Grant] = {}
        self._futures: dict[str, PrefectFuture[Any]] = {}
        self._begun: dict[str, float] = {}  # running stage -> when it was submitted
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._order = sorted(graph, key=self._stages_behind(), reverse=True)

    def drive(self, stop: Any) -> None:
        """Return when every stage has ended; or, with all that runs ended, when stop() says so or an exception comes.

        Args:
            stop: called every LOOK seconds; True cancels the run.
        """
        looked = time.monotonic()
        try:
            self._plan()
            while len(self.outcomes) < len(self.graph):
                self._submit_ready()
                self._wait()
                if time.monotonic() - looked >= LOOK:
                    looked = time.monotonic()
                    if stop():
                        return
        finally:
            if len(self.outcomes) < len(self.graph):
                self.bridge.cancel()
            while self._begun:
                self._settle(self._ended.get())
            for future in self._futures.values():
                future.wait()

    def grant(self, name: str) -> Grant:
        """What the stage holds of the machine. It waits only where the cache does not have the stage's outputs."""
        needs = self.graph[name].needs
        while name not in self._grants:
            if lacking := self.machine.lacks(needs):
                raise RuntimeError(lacking)
            grant = self.machine.take(needs)
            if grant:
                self._grants[name] = grant
            elif self.bridge.locks.cancelled.wait(AGAIN):
                raise Cancelled("cancelled before it ran")
        return self._grants[name]

    def _plan(self) -> None:
        if self.force:
            return
        self._outlooks = self.bridge.plan(self.graph)
        if self.bridge.shared and set(self._outlooks.values()) != {Outlook.CACHED}:
            try:
                self.bridge.learn()
            except Exception as error:  # whatever a remote's library raises; the run can do without
                get_run_logger().warning("the run cache of the remote cannot be read: %s", error)
            self._outlooks = self.bridge.plan(self.graph)

    def _stages_behind(self) -> Any:
        """How many stages wait for this one, directly or not: those with more go first."""
        behind: dict[str, set[str]] = {name: set() for name in self.graph}
        for node in reversed(self.graph.values()):
            for name in node.upstream:
                behind[name] |= {node.name} | behind[node.name]
        return lambda name: len(behind[name])

    def _submit_ready(self) -> None:
        ended = True
        while ended:  # what ends at once makes others ready
            ended = False
            for name in self._order:
                if name not in self.outcomes and name not in self._begun:
                    if all(other in self.outcomes for other in self.graph[name].upstream):
                        ended |= self._submit(self.graph[name])

    def _submit(self, node: Node) -> bool:
        """Start the stage if it fits; True if it has ended already."""
        bad = next((other for other in node.upstream if self.outcomes[other].failed), None)
        if bad:
            culprit = (
                self.outcomes[bad].message if self.outcomes[bad].verdict == "Skipped" else f"needs {bad}, which failed"
            )
            return self._mark(node, Outcome("Skipped", culprit))
        outlook = self._outlook(node)
        if outlook == Outlook.CACHED:
            record = self.bridge.known(node.name)
            return self._mark(node, Outcome("Cached", "up to date", failed=False, record=record))
        if outlook == Outlook.RUN:
            if lacking := self.machine.lacks(node.needs):
                return self._mark(node, Outcome("Failed", lacking))
            grant = self.machine.take(node.needs)
            if grant is None:
                return False
            self._grants[node.name] = grant
        if outlook != Outlook.BUSY:
            self._start(node)
        return False

    def _outlook(self, node: Node) -> Outlook:
        if self.force:
            return Outlook.RUN if node.runs else Outlook.RESTORE
        if self._outlooks.get(node.name, Outlook.BUSY) == Outlook.BUSY:
            self._outlooks[node.name] = self.bridge.look(node.name)
        return self._outlooks[node.name]

    def _mark(self, node: Node, outcome: Outcome) -> bool:
        self.outcomes[node.name] = outcome
        run = mark.with_options(name=node.name, task_run_name=node.name)
        self._futures[node.name] = run.submit(outcome.verdict, outcome.message, wait_for=self._before(node))  # pyright: ignore
        return True

    def _start(self, node: Node) -> None:
        self._begun[node.name] = time.monotonic()
        run = stage.with_options(name=node.name, task_run_name=node.name, retries=node.needs.retries)
        future = run.submit(self, node.name, wait_for=self._before(node))  # pyright: ignore
        self._futures[node.name] = future
        future.add_done_callback(lambda _: self._ended.put(node.name))

    def _before(self, node: Node) -> list[Any]:
        return [allow_failure(self._futures[name]) for name in node.upstream]

    def _wait(self) -> None:
        try:
            self._settle(self._ended.get(timeout=LOOK if len(self.outcomes) < len(self.graph) else 0))
            while True:
                self._settle(self._ended.get_nowait())
        except queue.Empty:
            pass

    def _settle(self, name: str) -> None:
        future = self._futures[name]
        seconds = time.monotonic() - self._begun.pop(name)  # first, because of what wait() may raise
        future.wait()  # takes over the final state from the thread that has ended, or the SystemExit that ended it
        state = future.state
        failed = not state.is_completed()
        record = None if failed else self.records[name]
        self.outcomes[name] = Outcome(state.name or state.type.value, reason(state), failed, seconds, record)
        if name in self._grants:
            self.machine.give(self._grants.pop(name))


def reason(state: State[Any]) -> str:
    """Why a stage ended as it did, on one line."""
    error = state.data if isinstance(state.data, BaseException) else getattr(state.data, "result", None)
    return " ".join(str(error if isinstance(error, BaseException) else state.message or "").split())


def worth_retrying(_task: Any, _run: Any, state: State[Any]) -> bool:
    """A command that failed, or took too long; not a stage whose files or entries are at fault."""
    return isinstance(state.result(raise_on_failure=False), StageFailed)


@task(cache_policy=NO_CACHE, persist_result=False)
def mark(verdict: str, message: str) -> State[Any]:
    """The task run of a stage that does not run."""
    kind = Completed if verdict == "Cached" else Failed  # the only other type that Prefect lets others wait for
    return kind(name=verdict, message=message)


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_condition_fn=worth_retrying,
    retry_delay_seconds=exponential_backoff(backoff_factor=1),  # 1, 2, 4 ... seconds
)
def stage(schedule: Schedule, name: str) -> State[Any]:
    """The task run of a stage that runs, or is restored."""
    bridge, log = schedule.bridge, get_run_logger()
    try:
        work = bridge.begin(name, schedule.force)
        if isinstance(work, Outlook):
            schedule.records[name] = record = bridge.current(name)
            state = Completed(name="Cached" if work == Outlook.CACHED else "Restored", message="from DVC's cache")
        else:
            bridge.run(work, log.info, schedule.graph[name].needs.timeout, schedule.grant(name).devices)
            schedule.records[name] = record = bridge.finish(work)
            state = Completed(message="outputs recorded in dvc.lock")
    except Cancelled as error:
        return CancelledState(message=str(error))
    try:
        artifacts.publish(record)
    except Exception as error:  # the stage's work is recorded: nothing here may take it back
        log.warning("artifacts of %s were not published: %s", name, error)
    return state
