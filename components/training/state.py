"""All that changes while a model trains: what a checkpoint holds.

The rest is a function of (config, step): the learning rate, the position in the data, the generators of dropout.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from components.training import ema
from components.training.checkpoint import Checkpoint
from components.training.config import FitConfig
from components.training.curves import Row
from components.training.device import device_of
from components.training.optimiser import Optimiser, build
from components.training.precision import loss_scaler
from components.training.task import WEIGHT
from components.training.weights import copy_weights, differs, weights

STEPWISE = ("gradient_norm", "loss_scale")  # figures of a step; all others are of a micro-batch


@dataclass
class Kept:
    """The validation whose weights the run ends with."""

    step: int
    figures: dict[str, float]
    weights: dict[str, Tensor] = field(default_factory=dict)  # empty where these are the last ones


@dataclass
class State:
    model: nn.Module
    optimiser: Optimiser
    scaler: GradScaler | None  # fp16's loss scale
    average: ema.Average  # of the weights; empty: none
    step: int = 0  # optimiser steps done
    seconds: float = 0.0  # spent so far, over all the processes that worked on this run
    rows: list[Row] = field(default_factory=list)  # the curves
    kept: Kept | None = None
    window: dict[str, list[Tensor | float]] = field(default_factory=dict)  # scalars since the last point of the curves

    def __post_init__(self) -> None:
        self.parameters = self.optimiser.parameters
        self.device = device_of(self.model)

    @classmethod
    def begin(cls, model: nn.Module, config: FitConfig) -> "State":
        """Before the first step."""
        scaler = loss_scaler(config.precision, device_of(model))
        return cls(model, build(model, config), scaler, ema.begin(model, config.ema))

    def record(self, figures: dict[str, Tensor | float]) -> None:
        """Add scalars to the window, without waiting for the device."""
        for name, value in figures.items():
            self.window.setdefault(name, []).append(value.detach() if isinstance(value, Tensor) else value)

    def means(self, accumulation: int) -> dict[str, float]:
        """Means over the window's steps, in double precision; within a step by its micro-batches' weights, if any."""
        vectors = {name: gather(values) for name, values in self.window.items()}
        share = vectors.pop(WEIGHT, None)
        if share is not None and accumulation > 1:
            share = share.view(-1, accumulation)
            for name in vectors.keys() - set(STEPWISE):
                vectors[name] = (vectors[name].view(-1, accumulation) * share).sum(1) / share.sum(1)
        return {name: vector.mean().item() for name, vector in vectors.items()}

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds as tensors."""
        tensors = {f"model.{name}": tensor for name, tensor in weights(self.model).items()}
        tensors |= {f"optimiser.{name}": tensor for name, tensor in self.optimiser.tensors().items()}
        tensors |= {f"average.{name}": tensor.contiguous() for name, tensor in self.average.items()}
        if self.kept:
            tensors |= {f"kept.{name}": tensor for name, tensor in self.kept.weights.items()}
        return tensors

    def facts(self, config: FitConfig) -> dict[str, Any]:
        """What a checkpoint holds as JSON."""
        return {
            "config": asdict(config),
            "seconds": self.seconds,
            "rows": self.rows,
            "window": {name: gather(values).tolist() for name, values in self.window.items()},
            "kept": self.kept and {"step": self.kept.step, "figures": self.kept.figures},
            "scaler": self.scaler and self.scaler.state_dict(),
        }

    def foreign(self, checkpoint: Checkpoint, config: FitConfig) -> str:
        """Why the checkpoint belongs to another run, or nothing."""
        own = json.loads(json.dumps(asdict(config)))
        there = checkpoint.state["config"]
        for name in sorted(own.keys() | there.keys()):
            if own.get(name) != there.get(name):
                return f"{name} is {there.get(name)} there and {own.get(name)} here"
        return differs(group(checkpoint.tensors, "model"), self.model)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint that is not foreign."""
        copy_weights(group(checkpoint.tensors, "model"), self.model, "the checkpoint")
        self.optimiser.restore(group(checkpoint.tensors, "optimiser"))
        for name, tensor in group(checkpoint.tensors, "average").items():
            self.average[name].copy_(tensor)
        facts = checkpoint.state
        self.step, self.seconds, self.rows = checkpoint.step, facts["seconds"], facts["rows"]
        self.window = facts["window"]  # JSON gives doubles back to the bit, and in their order
        if self.scaler:
            self.scaler.load_state_dict(facts["scaler"])
        if kept := facts["kept"]:
            tensors = {name: tensor.clone() for name, tensor in group(checkpoint.tensors, "kept").items()}
            self.kept = Kept(kept["step"], kept["figures"], tensors)


def gather(values: list[Tensor | float]) -> Tensor:
    """Scalars, wherever they lie, as one vector of doubles on the CPU."""
    return torch.tensor([float(value) for value in values], dtype=torch.float64)


def group(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose name begins with `prefix.`, without it."""
    return {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}
