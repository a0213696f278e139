"""An exponential moving average of the weights, which is judged and kept in their place (Polyak & Juditsky 1992).

The decay rises with the steps, min(decay, (1 + t) / (10 + t)), so that the random start is soon forgotten (TensorFlow's
ExponentialMovingAverage with num_updates; timm's ModelEmaV3 warms up alike). Buffers of numbers are averaged as well,
counters are copied.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from components.training.weights import stored

Average = dict[str, Tensor]  # by the names of the weights; empty where there is none


def begin(model: nn.Module, decay: float) -> Average:
    """The weights as they are; empty for decay 0."""
    return {name: tensor.clone() for name, tensor in stored(model).items()} if decay else {}


@torch.no_grad()
def update(average: Average, model: nn.Module, decay: float, step: int) -> None:
    """After `step` steps of the optimiser; the first is 1."""
    if not average:
        return
    share = 1 - min(decay, (1 + step) / (10 + step))
    pairs = [(average[name], tensor) for name, tensor in stored(model).items()]
    floats = [(own, new) for own, new in pairs if own.is_floating_point()]
    torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
        [own for own, _ in floats], [new for _, new in floats], share
    )
    for own, new in pairs:
        if not own.is_floating_point():
            own.copy_(new)


@contextmanager
def swapped(average: Average, model: nn.Module) -> Iterator[None]:
    """The average stands in the model inside, and the weights in the average."""
    swap(average, model)
    try:
        yield
    finally:
        swap(average, model)


@torch.no_grad()
def swap(average: Average, model: nn.Module) -> None:
    """One tensor at a time, in place."""
    if average:
        for name, tensor in stored(model).items():
            held = tensor.clone()
            tensor.copy_(average[name])
            average[name].copy_(held)
