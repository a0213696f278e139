"""What an engine tells of itself: figures of the moment, and sums since it began."""

import time
from collections import Counter, deque
from dataclasses import dataclass

SPAN = 10.0  # seconds over which a rate is taken
LATEST = 0.2  # weight of the newest request in a mean


@dataclass(frozen=True)
class Statistics:
    waiting: int  # requests in the queue
    active: int  # requests that hold a slot, or whose prompt is being read
    slots: int
    cache_used: float  # share of the slots' room that holds tokens
    tokens_per_second: float  # drawn, over the last ten seconds
    tokens: int  # drawn so far
    prompt_tokens: int  # of all requests so far that began
    cached_tokens: int  # of them, those whose keys and values were known
    prefix_bytes: int
    guessed: int  # tokens so far
    confirmed: int  # of them, those that were right
    ended: dict[str, int]  # requests by reason


class Meter:
    """Counts tokens and requests as they come; used under the engine's lock."""

    def __init__(self) -> None:
        self.tokens = 0
        self.ended: Counter[str] = Counter()
        self.service = 1.0  # seconds that a request holds a slot, in the mean
        self._began = time.monotonic()
        self._recent: deque[tuple[float, int]] = deque()

    def drew(self, tokens: int) -> None:
        self.tokens += tokens
        self._recent.append((time.monotonic(), tokens))
        self._forget()

    def served(self, seconds: float) -> None:
        self.service += LATEST * (seconds - self.service)

    def rate(self) -> float:
        """Tokens a second."""
        self._forget()
        span = min(SPAN, time.monotonic() - self._began)
        return sum(tokens for _, tokens in self._recent) / max(span, 1e-3)

    def _forget(self) -> None:
        while self._recent and self._recent[0][0] < time.monotonic() - SPAN:
            self._recent.popleft()
