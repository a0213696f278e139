"""Takes a request to the version that is to answer it, stays while it is computed, and writes down what came of it.

A request ends at its deadline, and at once where its client has gone. Where a challenger breaks, the champion answers,
and the failure counts against the challenger. A shadow computes after the answer has left.
"""

import asyncio
import contextlib
import hashlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request

from components.inference.server.errors import GONE, ApiError, api_error
from components.inference.server.fleet import Candidate, Deployment, Fleet
from components.inference.server.metrics import Metrics
from components.inference.server.served import Kind
from components.inference.server.settings import Settings
from components.inference.traffic import Traffic

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass
class Ask:
    """A request as the gate lets it in."""

    id: str
    owner: str  # of the key; the address of a client without one
    started: float  # time.monotonic()
    deadline: float
    after: list[Coroutine[Any, Any, None]] = field(default_factory=list)  # to do once the answer has left

    @staticmethod
    def of(request: Request) -> "Ask":
        return request.scope["ask"]

    def user(self, client: str | None) -> str:
        """Who asks, for experiments: a hash of the key's owner and of whom that says it asks for."""
        return hashlib.sha256(f"{self.owner}\0{client or ''}".encode("utf-8", "replace")).hexdigest()


@dataclass
class Task:
    """What a request wants of a model. `input`: what is written down of it."""

    id: str  # of the row: the request's, unless this is a step on the way to its answer
    name: str
    kind: Kind
    user: str
    route: str
    input: Any


class Attempt:
    """One deployment at work on a task. started, deadline: by time.monotonic; a shadow has its own."""

    def __init__(self, desk: "Desk", task: Task, by: Candidate, id: str, started: float, deadline: float) -> None:
        self.desk, self.task, self.by, self.id = desk, task, by, id
        self.started, self.deadline = started, deadline
        self._over = False
        self.deployment.enter()

    @property
    def deployment(self) -> Deployment:
        return self.by.deployment

    @property
    def version(self) -> str:
        return self.deployment.version.version

    def finish(self, status: int, output: Any = None, prompt_tokens: int = 0, tokens: int = 0) -> None:
        """Leave the deployment and write down what came of it; only the first call counts."""
        if self._over:
            return
        self._over = True
        self.deployment.leave()
        seconds = time.monotonic() - self.started
        name, version = self.task.name, self.deployment.version
        metrics = self.desk.metrics
        metrics.seconds.labels(self.task.route, name, version.version, self.by.role).observe(seconds)
        for kind, count in (("prompt", prompt_tokens), ("completion", tokens)):
            if count:
                metrics.tokens.labels(name, version.version, kind).inc(count)
        self.desk.traffic.record(
            id=self.id,
            user=self.task.user,
            name=name,
            version=version.version,
            commit=version.commit,
            role=self.by.role,
            experiment=self.by.experiment,
            route=self.task.route,
            status=status,
            seconds=seconds,
            tokens=tokens or prompt_tokens,
            input=self.task.input,
            output=output,
        )


class Desk:
    def __init__(self, fleet: Fleet, traffic: Traffic, metrics: Metrics, settings: Settings) -> None:
        self.fleet, self.traffic, self.metrics, self.settings = fleet, traffic, metrics, settings
        self._shadows = 0

    def task(
        self, request: Request, model: str | None, kind: Kind, client: str | None, input: Any, step: bool = False
    ) -> Task:
        """What is asked; ApiError where no such model serves. step: another task of this request gives the answer."""
        ask = Ask.of(request)
        user = ask.user(client or request.headers.get("x-client-id"))
        id = str(uuid.uuid4()) if step else ask.id
        return Task(id, self.fleet.named(model, kind), kind, user, request.scope["route"].path, input)

    async def begin(
        self,
        request: Request,
        task: Task,
        compute: Callable[[Attempt], Awaitable[T]],
        output: Callable[[T], Awaitable[Any]],
    ) -> tuple[Attempt, T]:
        """A result, and the attempt to finish once the answer is complete.

        output: of a shadow's result, what is written down.

        Raises:
            ApiError: nobody could answer.
        """
        ask = Ask.of(request)
        candidates, shadow = self.fleet.choose(task.name, task.user)
        for by in candidates:
            last = by is candidates[-1]
            attempt = Attempt(self, task, by, task.id if last else str(uuid.uuid4()), ask.started, ask.deadline)
            try:
                result = await within(request, compute(attempt), ask.deadline)
            except BaseException as error:
                if not isinstance(error, Exception):  # cancelled: the server ends
                    attempt.finish(GONE)
                    raise
                told = api_error(error)
                attempt.finish(told.status)
                if told.status != 500 or last:
                    raise told from None
                log.warning("%s %s failed; the champion answers", task.name, attempt.version)
                continue
            attempt.id = task.id
            if shadow:
                self._copy(ask, task, shadow, compute, output)
            return attempt, result
        raise AssertionError("the last candidate returns or raises")

    def _copy(
        self,
        ask: Ask,
        task: Task,
        shadow: Candidate,
        compute: Callable[[Attempt], Awaitable[T]],
        output: Callable[[T], Awaitable[Any]],
    ) -> None:
        """Have the shadow compute the same once the answer has left, unless it has enough to do."""
        if self._shadows >= self.settings.shadows:
            self.metrics.shadows.labels(task.name, "left out").inc()
            return
        self._shadows += 1
        attempt = Attempt(self, task, shadow, str(uuid.uuid4()), 0.0, 0.0)  # entered now: a swap waits for it

        async def run() -> None:
            attempt.started = time.monotonic()
            attempt.deadline = attempt.started + self.settings.timeout
            try:
                async with asyncio.timeout(self.settings.timeout):
                    written = await output(await compute(attempt))
                attempt.finish(200, {"shadow_of": task.id, "output": written})
                self.metrics.shadows.labels(task.name, "computed").inc()
            except Exception as error:
                attempt.finish(api_error(error).status, {"shadow_of": task.id})
                self.metrics.shadows.labels(task.name, "failed").inc()
            finally:
                attempt.finish(GONE)
                self._shadows -= 1

        ask.after.append(run())


async def within(request: Request, work: Awaitable[T], deadline: float) -> T:
    """The result of `work`, which is cancelled and has ended where this raises.

    deadline: by time.monotonic.

    Raises:
        TimeoutError: the deadline passed.
        ApiError: the client has gone (499).
        Exception: what `work` raised.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        left = max(0.0, deadline - time.monotonic())
        await asyncio.wait({task, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ApiError(GONE, "The client has gone.")
        raise TimeoutError
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(BaseException):
                await task


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
