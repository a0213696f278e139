"""One line about a running fit: redrawn on a terminal, a line every few seconds in a log."""

import sys
import time
from collections.abc import Sequence

LOG_SECONDS = 5.0
TERMINAL_SECONDS = 0.2


class Progress:
    """Steps, figures, examples a second and the time left, at a bounded pace however short the steps are."""

    def __init__(self, start: int, steps: int, examples: int) -> None:
        """`start`: steps done before; `examples`: examples a step."""
        self.start, self.steps, self.examples = start, steps, examples
        self.stream = sys.stdout
        self.terminal = self.stream.isatty()
        self.began = time.monotonic()
        self.next = self.began + (0.0 if self.terminal else 1.0)  # the first line of a log comes early
        self.drawn = 0  # width of what stands on the terminal's line

    def seconds(self) -> float:
        """Since this process began to train."""
        return time.monotonic() - self.began

    def due(self) -> bool:
        return time.monotonic() >= self.next

    def show(self, step: int, figures: dict[str, float], notes: Sequence[str] = (), last: bool = False) -> None:
        """Print the state after `step` steps, `notes` behind the speed; `last` ends the line on a terminal."""
        now = time.monotonic()
        self.next = now + (TERMINAL_SECONDS if self.terminal else LOG_SECONDS)
        pace = (step - self.start) / max(now - self.began, 1e-9)  # steps a second, validation and saving included
        left = (self.steps - step) / pace if pace else 0.0
        parts = [f"step {step:,}/{self.steps:,}", *(f"{name} {value:.4g}" for name, value in figures.items())]
        if step > self.start:
            parts += [f"{pace * self.examples:,.0f} examples/s", *notes, f"{clock(left)} left"]
        line = "  ".join(parts).replace("_", " ")
        if self.terminal:
            self.stream.write("\r" + line.ljust(self.drawn) + ("\n" if last else ""))
            self.drawn = len(line)
        else:
            self.stream.write(line + "\n")
        self.stream.flush()


def say(message: str) -> None:
    """A message on a line of its own, seen at once in a log too."""
    print(message, flush=True)


def clock(seconds: float) -> str:
    """12:05 or 1:02:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
