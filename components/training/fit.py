"""The training loop of every stage; it knows no modality. `run` reads top to bottom: step, log, evaluate, save.

A run that is killed and started again ends with the same bits as one that was not, because everything is either in the
checkpoint (`State`: weights, optimiser, curves) or a pure function of the configuration and the step (learning rate,
order of the data, dropout). EMA, loss scaling and other optimisers are left out.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from components.training.checkpoint import clear, held, newest, save
from components.training.config import FitConfig
from components.training.curves import Row, write_curves
from components.training.device import deterministic, move, reseed
from components.training.optimiser import adamw
from components.training.precision import autocast
from components.training.progress import Progress, say
from components.training.schedule import rate
from components.training.state import Kept, State, gather
from components.training.task import Task
from components.training.weights import copy_weights, weights


@dataclass(frozen=True)
class History:
    """What a finished run leaves beside its weights."""

    rows: list[Row]  # the curves
    step: int  # the step whose weights the model now has
    figures: dict[str, float]  # validation of these weights, the main figure first
    seconds: float  # spent training, over all processes; keep it out of files that are hashed

    def write(self, folder: Path) -> None:
        """Write curves.jsonl and curves.png."""
        write_curves(folder, self.rows)


def fit(task: Task, batches: Callable[[int], Iterator[Any]], config: FitConfig, *, checkpoints: Path | None) -> History:
    """Train `task.model` in place, on the device that it lies on.

    batches: called with a number of micro-batches, gives an iterator over all that come after them.
    checkpoints: a folder of this run's own; a run that was cut off continues from there. None: nothing is saved.

    With accumulation, a step follows the mean of the gradients of its micro-batches' mean losses. That is the gradient
    of one large batch where every micro-batch weighs the same (equal numbers of examples, or of tokens that count) and
    the loss has no terms between examples (a contrastive loss sees the negatives in its micro-batch only).

    FloatingPointError: the loss or the gradient is not finite; the checkpoint before it stays. OSError: full disk.
    """
    with deterministic(), held(checkpoints, say) if checkpoints else nullcontext():
        return run(task, batches, config, checkpoints)


def run(task: Task, batches: Callable[[int], Iterator[Any]], config: FitConfig, checkpoints: Path | None) -> History:
    state = State(task.model, adamw(task.model, config.weight_decay, config.betas))
    if checkpoints:
        resume(state, config, checkpoints)
    progress = Progress(state.step, config.steps, config.batch_size * config.accumulation)
    earlier = state.seconds
    micro_batches = batches(state.step * config.accumulation)
    task.model.train()
    while state.step < config.steps:
        train_step(task, state, config, micro_batches)
        log(state, config, progress)
        if due(config.validate_every, state, config):
            evaluate(task, state, config)
        if checkpoints and due(config.save_every, state, config):
            check_finite(state, config)
            state.seconds = earlier + progress.seconds()
            save(checkpoints, state.step, state.tensors(), state.facts(config))
    return finish(state, earlier + progress.seconds(), progress)


def due(every: int, state: State, config: FitConfig) -> bool:
    return state.step % every == 0 or state.step == config.steps


def resume(state: State, config: FitConfig, checkpoints: Path) -> None:
    """Continue from the newest whole checkpoint of this run, if there is one."""
    found = newest(checkpoints, say)
    if found is None:
        return
    if why := state.foreign(found, config):
        say(f"the checkpoints in {checkpoints} are of another run ({why}): starting afresh")
        clear(checkpoints)
        return
    state.restore(found)
    say(f"continuing after step {state.step:,} of {config.steps:,} from {checkpoints}")


def train_step(task: Task, state: State, config: FitConfig, micro_batches: Iterator[Any]) -> None:
    """One step of the optimiser over `accumulation` micro-batches."""
    device = state.device
    for part in range(config.accumulation):
        batch = move(next(micro_batches), device)
        reseed(device, config.seed, state.step, part)
        with autocast(config.precision, device):
            loss, figures = task.loss(batch)
        (loss / config.accumulation).backward()
        state.record({"loss": loss, **figures})
    state.record({"gradient_norm": clip_grad_norm_(state.parameters, config.clip)})
    for group in state.optimiser.param_groups:
        group["lr"] = config.learning_rate * rate(state.step, config.steps, config.warmup, config.final_share)
    state.optimiser.step()
    state.optimiser.zero_grad()
    state.step += 1


def log(state: State, config: FitConfig, progress: Progress) -> None:
    """A line of progress when it is time, a point of the curves when it is due; the device is waited for only then."""
    point = due(config.log_every, state, config)
    line = progress.due() and state.step < config.steps  # the end has its own
    if not point and not line:
        return
    check_finite(state, config)
    means = state.means()
    if line:
        progress.show(state.step, {"loss": means["loss"]} | validated(state))
    if point:
        state.rows.append({"step": state.step, **means, "learning_rate": state.optimiser.param_groups[0]["lr"]})
        state.window.clear()


def check_finite(state: State, config: FitConfig) -> None:
    """FloatingPointError naming the first step since the last point of the curves where something was not finite."""
    for name, each in (("loss", config.accumulation), ("gradient_norm", 1)):
        values = gather(state.window.get(name, []))
        for index in (~values.isfinite()).nonzero().flatten().tolist():
            step = state.step - (len(values) - 1 - index) // each
            raise FloatingPointError(
                f"step {step}: {name} is {values[index].item()}; nothing was saved since: lower "
                f"learning_rate ({config.learning_rate:g}), or look at the data of that step"
            )


@torch.no_grad()
def evaluate(task: Task, state: State, config: FitConfig) -> None:
    """Add the validation figures to the curves, and keep these weights or not."""
    reseed(state.device, config.seed, state.step, "validation")
    task.model.eval()
    with autocast(config.precision, state.device):
        figures = {name: float(value) for name, value in task.validate().items()}
    task.model.train()
    if unfit := [name for name, value in figures.items() if not math.isfinite(value)]:
        raise FloatingPointError(
            f"step {state.step}: validation {unfit[0]} is {figures[unfit[0]]}; nothing was saved since"
        )
    state.rows.append({"step": state.step} | {f"valid_{name}": value for name, value in figures.items()})
    if config.keep == "last":
        state.kept = Kept(state.step, figures)
    elif state.kept is None or improves(figures, state.kept.figures, task.better):
        state.kept = Kept(state.step, figures, {name: value.clone() for name, value in weights(task.model).items()})


def improves(figures: dict[str, float], before: dict[str, float], better: str) -> bool:
    main = next(iter(figures))
    return figures[main] > before[main] if better == "higher" else figures[main] < before[main]


def validated(state: State) -> dict[str, float]:
    """The main figure of the last validation, if there was one."""
    figures = (
        (name, value) for row in reversed(state.rows) for name, value in row.items() if name.startswith("valid_")
    )
    return dict([next(figures)]) if state.kept else {}


def finish(state: State, seconds: float, progress: Progress) -> History:
    """Leave the kept weights in the model, in eval mode."""
    assert state.kept  # the last step is always validated
    if state.kept.weights:
        copy_weights(state.kept.weights, state.model, "the best validation")
    state.model.eval()
    label = "best valid" if state.kept.weights else "valid"
    progress.show(state.step, {f"{label} {name}": value for name, value in state.kept.figures.items()}, last=True)
    return History(state.rows, state.kept.step, state.kept.figures, seconds)
