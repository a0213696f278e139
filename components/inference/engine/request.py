"""One request as the engine sees it: what was asked, what was drawn, and when it is over."""

import time
from dataclasses import dataclass, field

from components.decoders.config import SamplingConfig
from components.inference.engine.draft import Lookup
from components.inference.engine.stream import Reason, Stream


@dataclass(eq=False)
class Request:
    prompt: list[int]
    sampling: SamplingConfig
    chances: list[float]  # of each token to come (draw.py): as many as may be drawn
    deadline: float | None  # time.monotonic()
    stream: Stream
    drawn: list[int] = field(default_factory=list)
    started: float = 0.0  # time.monotonic() when it left the queue
    lookup: Lookup | None = None  # of prompt and drawn tokens, where guesses are made

    @property
    def left(self) -> int:
        """Tokens that it may still draw."""
        return len(self.chances) - len(self.drawn)

    def over(self) -> Reason | None:
        """Why it should not go on, whatever it drew."""
        if self.stream.cancelled:
            return "cancelled"
        if self.deadline is not None and time.monotonic() > self.deadline:
            return "deadline"
        return None

    def take(self, tokens: list[int], end: int | None) -> Reason | None:
        """Hand on new tokens, up to the end token or the last one allowed; why that was the end, if it was."""
        reason: Reason | None = None
        if end is not None and end in tokens:
            tokens, reason = tokens[: tokens.index(end)], "stop"
        elif len(tokens) >= self.left:
            tokens, reason = tokens[: self.left], "length"
        self.drawn += tokens
        if self.lookup is not None:
            self.lookup.extend(tokens)
        if tokens:
            self.stream.put(tokens)
        return reason
