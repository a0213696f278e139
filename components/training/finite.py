"""Losses and gradients that are not finite: found when the device is waited for anyway, reported where they began."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from components.training.config import FitConfig
from components.training.precision import SMALLEST_SCALE
from components.training.state import State, gather
from components.training.task import Named

NAMES = 8  # examples of a batch that a message lists
AFTER = 1 << 30  # stands for a micro-batch where what is wrong is the step's, after all of them


def check_finite(state: State, config: FitConfig, batches: Any) -> None:
    """FloatingPointError naming the first step since the last point of the curves where something was not finite, and
    for a loss the micro-batch; where `batches` can tell, its examples, for a gradient those of the whole step."""
    faults = sorted([*_losses(state, config), *_gradients(state), *_scales(state)])
    if not faults:
        return
    step, part, what = faults[0]
    where = f" in micro-batch {part + 1} of {config.accumulation}" if part < config.accumulation > 1 else ""
    examples = ""
    if isinstance(batches, Named):
        first = (step - 1) * config.accumulation
        numbers = range(first, first + config.accumulation) if part == AFTER else [first + part]
        examples = f" (examples {_named([name for number in numbers for name in batches.names(number)])})"
    raise FloatingPointError(
        f"step {step}: {what}{where}{examples}; nothing was saved since: lower learning_rate "
        f"({config.learning_rate:g}), or look at the data of that step"
    )


Fault = tuple[int, int, str]  # step, micro-batch or AFTER, what is wrong


def _losses(state: State, config: FitConfig) -> Iterator[Fault]:
    values = gather(state.window.get("loss", []))
    first = state.step * config.accumulation - len(values)  # number of the window's first micro-batch
    for index in (~values.isfinite()).nonzero().flatten().tolist():
        step, part = divmod(first + index, config.accumulation)
        yield step + 1, part, f"loss is {values[index].item()}"


def _gradients(state: State) -> Iterator[Fault]:
    """With a loss scale these are skipped steps, and not in the window."""
    values = gather(state.window.get("gradient_norm", []))
    for index in (~values.isfinite()).nonzero().flatten().tolist():
        yield state.step - len(values) + index + 1, AFTER, f"gradient_norm is {values[index].item()}"


def _scales(state: State) -> Iterator[Fault]:
    values = gather(state.window.get("loss_scale", []))
    for index in (values < SMALLEST_SCALE).nonzero().flatten().tolist():
        scale = values[index].item()
        yield state.step - len(values) + index + 1, AFTER, f"loss_scale has fallen to {scale:g}: gradients overflow"


def _named(names: list[str]) -> str:
    more = len(names) - NAMES
    return ", ".join(islice(names, NAMES)) + (f" and {more} more" if more > 0 else "")
