"""One step of the optimiser: gradients of its micro-batches, then their use.

Accumulated gradients are those of one large batch. Where the task reports no weights, that is the mean of the
micro-batches' gradients. Where it does, each is multiplied by its weight in that of the step's first, and the sum is
divided by what these factors add up to: no total has to be known beforehand, and fp16 meets no large numbers.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from components.training import ema
from components.training.config import FitConfig
from components.training.device import move, reseed
from components.training.precision import autocast
from components.training.schedule import rate
from components.training.state import State
from components.training.task import WEIGHT, Task


def train_step(task: Task, state: State, config: FitConfig, micro_batches: Iterator[Any]) -> None:
    """One step: takes `accumulation` micro-batches (StopIteration where there are fewer), changes weights and state.

    Losses and gradients that are not finite go through here unseen: check_finite looks where the device is waited for.
    """
    accumulate(task, state, config, micro_batches)
    follow(state, config)
    state.step += 1
    ema.update(state.average, state.model, config.ema, state.step)


def accumulate(task: Task, state: State, config: FitConfig, micro_batches: Iterator[Any]) -> None:
    """Leave the step's gradient in the parameters, multiplied by the loss scale if there is one."""
    factors: list[Tensor | float] = []  # weights of the micro-batches, in that of the first
    first: Tensor | float = 1.0
    for part in range(config.accumulation):
        batch = move(next(micro_batches), state.device)
        reseed(state.device, config.seed, state.step, part)
        with autocast(config.precision, state.device):
            loss, figures = task.loss(batch)
        state.record({"loss": loss, **figures})
        if WEIGHT in figures and config.accumulation > 1:
            first = figures[WEIGHT] if part == 0 else first
            factors.append(figures[WEIGHT] / first)
            loss = loss * factors[-1]
        else:
            loss = loss / config.accumulation
        (state.scaler.scale(loss.float()) if state.scaler else loss).backward()
    if factors:
        gradients = [parameter.grad for parameter in state.parameters if parameter.grad is not None]
        total = torch.as_tensor(sum(factors), dtype=torch.float32, device=state.device)
        torch._foreach_div_(gradients, total)  # pyright: ignore[reportPrivateImportUsage]


def follow(state: State, config: FitConfig) -> None:
    """Clip the gradient and move the weights; with a loss scale, only if no gradient has overflowed."""
    if state.scaler:
        state.scaler.unscale_(state.optimiser)  # type: ignore[arg-type]  # it reads param_groups
    norm = clip_grad_norm_(state.parameters, config.clip)
    state.optimiser.set_rate(config.learning_rate * rate(state.step, config))
    if state.scaler:
        state.scaler.step(state.optimiser)  # type: ignore[arg-type]
        state.scaler.update()
        state.record({"loss_scale": state.scaler.get_scale()} | ({"gradient_norm": norm} if norm.isfinite() else {}))
    else:
        state.optimiser.step()
        state.record({"gradient_norm": norm})
    state.optimiser.zero_grad()
