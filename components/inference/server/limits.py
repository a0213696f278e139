"""How often a client may ask, and how deep its JSON may nest."""

import math
import re
import time
from collections import OrderedDict

REMEMBERED = 10_000  # clients; the one that has not asked for longest is forgotten
TOKEN = re.compile(
    rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL
)  # strings, so that brackets in them do not count


class TokenBuckets:
    """A bucket a client: it holds `burst` tokens and gains `rate` a second; a request takes one."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when

    def take(self, client: str, now: float | None = None) -> int:
        """0, or the whole seconds after which a token will be there."""
        now = time.monotonic() if now is None else now
        tokens, then = self._buckets.pop(client, (self.burst, now))
        tokens = min(self.burst, tokens + (now - then) * self.rate)
        wait = 0 if tokens >= 1 else max(1, math.ceil((1 - tokens) / self.rate))
        self._buckets[client] = (tokens if wait else tokens - 1, now)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return wait


def deeper(body: bytes, depth: int) -> bool:
    """Whether JSON nests deeper than `depth`; read before a parser recurses into it."""
    if body.count(b"[") + body.count(b"{") <= depth:
        return False
    open_ = 0
    for found in TOKEN.finditer(body):
        first = found[0][:1]
        open_ += (first in b"[{") - (first in b"]}")
        if open_ > depth:
            return True
    return False
