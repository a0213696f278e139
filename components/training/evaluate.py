"""Validation, which weights are kept for it, and when a run that gets no better stops."""

import math

import torch

from components.training import ema
from components.training.compiled import eager
from components.training.config import FitConfig
from components.training.device import reseed
from components.training.precision import autocast
from components.training.state import Kept, State
from components.training.task import Task
from components.training.weights import weights


@torch.no_grad()
def evaluate(task: Task, state: State, config: FitConfig) -> None:
    """Add the validation figures to the curves, and keep these weights (the average, where there is one) or not.

    FloatingPointError: a figure is not finite.
    """
    reseed(state.device, config.seed, state.step, "validation")
    task.model.eval()
    with ema.swapped(state.average, task.model), autocast(config.precision, state.device), eager(config.compile):
        figures = {name: float(value) for name, value in task.validate().items()}
        if unfit := [name for name, value in figures.items() if not math.isfinite(value)]:
            raise FloatingPointError(
                f"step {state.step}: validation {unfit[0]} is {figures[unfit[0]]}; nothing was saved since"
            )
        state.rows.append({"step": state.step} | {f"valid_{name}": value for name, value in figures.items()})
        if config.keep == "last":
            state.kept = Kept(state.step, figures)
        elif state.kept is None or improves(figures, state.kept.figures, task.better):
            state.kept = Kept(state.step, figures, {name: value.clone() for name, value in weights(task.model).items()})
    task.model.train()


def improves(figures: dict[str, float], before: dict[str, float], better: str) -> bool:
    main = next(iter(figures))
    return figures[main] > before[main] if better == "higher" else figures[main] < before[main]


def over(state: State, config: FitConfig) -> bool:
    """All steps are done, or `patience` validations in a row were no better than the best; a function of the curves."""
    return state.step >= config.steps or stalled(state, config)


def stalled(state: State, config: FitConfig) -> bool:
    if not config.patience or state.kept is None:
        return False
    best = state.kept.step
    since = [row for row in state.rows if row["step"] > best and any(name.startswith("valid_") for name in row)]
    return len(since) >= config.patience


def validated(state: State) -> dict[str, float]:
    """The main figure of the last validation, if there was one."""
    figures = (
        (name, value) for row in reversed(state.rows) for name, value in row.items() if name.startswith("valid_")
    )
    return dict([next(figures)]) if state.kept else {}
