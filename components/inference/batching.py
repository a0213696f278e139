"""Micro-batching: requests that come at the same time share one pass of an encoder, in a thread of its own.

While a batch is computed, the next one gathers. Only where the batch before was shared does the thread wait a few
milliseconds for as many callers to come back: a lone caller never waits. The queue is bounded, a call ends at its
deadline, and a call that was cancelled or is late is not computed. An item that fails takes no other call with it.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchConfig:
    most: int = 32  # items in a pass, unless a single call has more
    delay: float = 0.003  # seconds that a batch waits for as many callers as the one before had
    waiting: int = 256  # items that wait at most


class Overloaded(Exception):
    """The queue is full. `seconds`: until it is expected to be empty."""

    def __init__(self, waiting: int, seconds: float) -> None:
        super().__init__(f"{waiting} items are waiting already: try again in {seconds:.1f} s")
        self.seconds = seconds


@dataclass(eq=False)
class Call:
    """Items of one request."""

    items: Sequence[Any]
    deadline: float  # of time.monotonic
    future: asyncio.Future[Any]


class Batcher(Generic[Item, Result]):
    """Runs `work`, which maps items to as many results, from one thread. `seen` is told the size of each batch."""

    def __init__(
        self,
        work: Callable[[list[Item]], Sequence[Result]],
        config: BatchConfig,
        name: str = "batcher",
        seen: Callable[[int], object] = bool,
    ) -> None:
        self.work, self.config, self.seen = work, config, seen
        self._calls: deque[Call] = deque()
        self._changed = threading.Condition()
        self._waiting = 0  # items
        self._callers = 1  # of the last batch
        self._seconds = 0.0  # an item takes, of late
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return self._waiting

    async def __call__(self, items: Sequence[Item], deadline: float) -> list[Result]:
        """Results of the items, all of one pass.

        deadline: by time.monotonic.

        Raises:
            Overloaded: the queue is full.
            TimeoutError: the deadline passed.
            Exception: what `work` raised.
        """
        call = Call(items, deadline, asyncio.get_running_loop().create_future())
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            if self._waiting and self._waiting + len(items) > self.config.waiting:
                raise Overloaded(self._waiting, self._waiting * self._seconds)
            self._calls.append(call)
            self._waiting += len(items)
            self._changed.notify()
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            return await call.future

    def close(self) -> None:
        """Compute what waits, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        del self.work  # its model mostly holds this batcher: the circle would keep both until a full collection

    def _run(self) -> None:
        while calls := self._next():
            self._callers = len(calls)
            now = time.monotonic()
            if wanted := [call for call in calls if not call.future.done() and call.deadline > now]:
                self._compute(wanted)

    def _next(self) -> list[Call]:
        """The calls of the next batch; none when closed."""
        with self._changed:
            while not self._calls and not self._closed:
                self._changed.wait()
            until = time.monotonic() + self.config.delay
            while self._callers > len(self._calls) and self._waiting < self.config.most and not self._closed:
                if not self._changed.wait(max(0.0, until - time.monotonic())):
                    break
            calls: list[Call] = []
            size = 0
            while self._calls and (not calls or size + len(self._calls[0].items) <= self.config.most):
                calls.append(self._calls.popleft())
                size += len(calls[-1].items)
            self._waiting -= size
            return calls

    def _compute(self, calls: list[Call]) -> None:
        items = [item for call in calls for item in call.items]
        started = time.monotonic()
        try:
            results = list(self.work(items))
            if len(results) != len(items):
                raise RuntimeError(f"{len(items)} items gave {len(results)} results")
        except Exception as error:
            if len(calls) == 1:
                self._hand_over([(calls[0], error)])
            else:
                for call in calls:
                    self._compute([call])
            return
        self._seconds += 0.2 * ((time.monotonic() - started) / len(items) - self._seconds)
        self.seen(len(items))
        ends = [sum(len(call.items) for call in calls[: i + 1]) for i in range(len(calls))]
        self._hand_over([(call, results[end - len(call.items) : end]) for call, end in zip(calls, ends, strict=True)])

    def _hand_over(self, done: list[tuple[Call, Any]]) -> None:
        """Wake the callers, all of one loop, at once."""

        def finish() -> None:
            for call, result in done:
                if call.future.done():  # cancelled, or late
                    continue
                if isinstance(result, Exception):
                    call.future.set_exception(result)
                else:
                    call.future.set_result(result)

        try:
            done[0][0].future.get_loop().call_soon_threadsafe(finish)
        except RuntimeError:  # the loop has ended, and nobody waits
            log.info("a batch came after the end of its loop")
