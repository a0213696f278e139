"""The training loop of every stage; it knows no modality. `run` reads top to bottom: step, log, evaluate, save.

A run that is killed and started again ends with the same bits as one that was not, because everything is either in the
checkpoint (`State`: weights and their average, optimiser, loss scale, curves) or a pure function of these, the
configuration and the step (learning rate, order of the data, dropout, when to stop). What depends on time (speed,
memory, live curves) is the monitor's, and reaches none of them.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.training import events
from components.training.activations import set_activations
from components.training.checkpoint import clear, held, newest, save
from components.training.compiled import activations_of, compiled
from components.training.config import FitConfig
from components.training.curves import Row, write_curves
from components.training.device import deterministic
from components.training.evaluate import evaluate, over, stalled
from components.training.finite import check_finite
from components.training.monitor import Monitor
from components.training.progress import say
from components.training.schedule import rate
from components.training.state import State
from components.training.step import train_step
from components.training.task import Task
from components.training.weights import copy_weights


@dataclass(frozen=True)
class History:
    """What a finished run leaves beside its weights."""

    rows: list[Row]  # the curves
    step: int  # the step whose weights the model now has
    figures: dict[str, float]  # validation of these weights, the main figure first
    seconds: float  # spent training, over all processes; keep it out of files that are hashed
    stopped: int  # steps done; fewer than asked for where patience ran out

    def write(self, folder: Path) -> None:
        """Write curves.jsonl and curves.png."""
        write_curves(folder, self.rows)


def fit(task: Task, batches: Callable[[int], Iterator[Any]], config: FitConfig, *, checkpoints: Path | None) -> History:
    """Train `task.model` in place, on the device that it lies on.

    batches: called with a number of micro-batches, gives an iterator over all that come after them.
    checkpoints: a folder of this run's own; a run that was cut off continues from there. None: nothing is saved, and
    memory is not estimated.

    With accumulation, a step follows the gradient of one large batch if the loss has no terms between examples (a
    contrastive loss sees the negatives in its micro-batch only) and all micro-batches weigh the same, or the task
    reports their weights (Task.loss).

    FloatingPointError: the loss or the gradient is not finite; the checkpoint before it stays. OSError: full disk.
    ValueError: the model has no part that an option asks for. RuntimeError: compile without a C++ compiler.
    """
    with deterministic(), held(checkpoints, say) if checkpoints else nullcontext():
        return run(task, batches, config, checkpoints)


def run(task: Task, batches: Callable[[int], Iterator[Any]], config: FitConfig, checkpoints: Path | None) -> History:
    set_activations(task.model, activations_of(config))
    state = State.begin(task.model, config)
    if checkpoints:
        resume(state, config, checkpoints)
    earlier = state.seconds
    task.model.train()
    with Monitor(task, state, config, checkpoints) as monitor, compiled(task.model, config):
        micro_batches = monitor.watch(batches(state.step * config.accumulation))
        while not over(state, config):
            train_step(task, state, config, micro_batches)
            log(state, config, monitor, batches)
            if due(config.validate_every, state, config):
                check_finite(state, config, batches)
                evaluate(task, state, config)
                log_stop(state, config)
            monitor.stepped()
            if checkpoints and due(config.save_every, state, config):
                check_finite(state, config, batches)
                state.seconds = earlier + monitor.seconds()
                save(checkpoints, state.step, state.tensors(), state.facts(config))
        return finish(state, earlier + monitor.seconds(), monitor)


def due(every: int, state: State, config: FitConfig) -> bool:
    return state.step % every == 0 or over(state, config)


def resume(state: State, config: FitConfig, checkpoints: Path) -> None:
    """Continue from the newest whole checkpoint of this run, if there is one."""
    found = newest(checkpoints, say)
    if found is None:
        return
    if why := state.foreign(found, config):
        say(f"the checkpoints in {checkpoints} are of another run ({why}): starting afresh")
        clear(checkpoints)
        shutil.rmtree(checkpoints / events.FOLDER, ignore_errors=True)
        return
    state.restore(found)
    say(f"continuing after step {state.step:,} of {config.steps:,} from {checkpoints}")


def log(state: State, config: FitConfig, monitor: Monitor, batches: Any) -> None:
    """A line of progress when it is time, a point of the curves when it is due; the device is waited for only then."""
    point = due(config.log_every, state, config)
    line = monitor.due() and state.step < config.steps  # the end has its own
    if not point and not line:
        return
    check_finite(state, config, batches)
    if line:
        monitor.line(state.means(config.accumulation)["loss"])
    if point:
        add_point(state, config)


def add_point(state: State, config: FitConfig) -> None:
    learning_rate = config.learning_rate * rate(state.step - 1, config)
    state.rows.append({"step": state.step, **state.means(config.accumulation), "learning_rate": learning_rate})
    state.window.clear()


def log_stop(state: State, config: FitConfig) -> None:
    """The last point of a run that its validation has just stopped."""
    if stalled(state, config) and state.window:
        add_point(state, config)


def finish(state: State, seconds: float, monitor: Monitor) -> History:
    """Leave the kept weights in the model, in eval mode."""
    assert state.kept  # the last step is always validated
    if final := state.kept.weights or state.average:
        copy_weights(final, state.model, "the best validation")
    state.model.eval()
    best = "best valid" if state.kept.weights else "valid"
    figures = {f"{best} {name}": value for name, value in state.kept.figures.items()}
    monitor.progress.show(state.step, figures, last=True)
    return History(state.rows, state.kept.step, state.kept.figures, seconds, state.step)
