"""The tokens of one request as they come: iterated from any thread or event loop, cancelled from any."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Literal

Reason = Literal["stop", "length", "cancelled", "deadline", "error"]  # end token, max_tokens, ... why a stream ended


class Busy(RuntimeError):
    """The queue is full. seconds: until a place in it is expected to be free."""

    def __init__(self, waiting: int, seconds: float) -> None:
        super().__init__(f"{waiting} requests are waiting already: try again in {seconds:.1f} s")
        self.seconds = seconds


class Closed(RuntimeError):
    """The engine was closed: it takes no requests, and ended those that it had."""


class Stream:
    """Iterate it once: `for` blocks, `async for` waits. The end token is not among the tokens.

    Iteration ends when `reason` is set; where that is "error", it raises what went wrong.
    """

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = 0  # of the prompt, which an earlier request had computed
        self.reason: Reason | None = None
        self.cancelled = False
        self._changed = threading.Condition()
        self._tokens: deque[int] = deque()
        self._error: BaseException | None = None
        self._wake: Callable[[], object] | None = None  # of the event loop that waits

    def cancel(self) -> None:
        """Ask for an early end, which comes within a step of the engine."""
        self.cancelled = True

    def put(self, tokens: list[int]) -> None:
        """By the engine: new tokens."""
        with self._changed:
            self._tokens.extend(tokens)
            self._notify()

    def end(self, reason: Reason, error: BaseException | None = None) -> None:
        """By the engine: nothing follows."""
        with self._changed:
            self.reason, self._error = reason, error
            self._notify()

    def __iter__(self) -> Iterator[int]:
        while True:
            with self._changed:
                self._changed.wait_for(self._ready)
                tokens, ended = self._take()
            yield from tokens
            if ended:
                return

    async def __aiter__(self) -> AsyncIterator[int]:
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        while True:
            with self._changed:
                ready = self._ready()
                tokens, ended = self._take() if ready else ([], False)
                if not ready:
                    woken.clear()
                    self._wake = lambda: loop.call_soon_threadsafe(woken.set)
            for token in tokens:
                yield token
            if ended:
                return
            if not ready:
                await woken.wait()

    def _ready(self) -> bool:
        return bool(self._tokens) or self.reason is not None

    def _take(self) -> tuple[list[int], bool]:
        """What is there, and whether that is all; raises the error once nothing is left before it."""
        tokens = list(self._tokens)
        self._tokens.clear()
        if self._error is not None and not tokens:
            raise self._error
        return tokens, self.reason is not None and self._error is None

    def _notify(self) -> None:
        self._changed.notify_all()
        wake, self._wake = self._wake, None
        if wake is not None:
            try:
                wake()
            except RuntimeError:  # the event loop is closed: nobody reads any more
                self.cancelled = True
