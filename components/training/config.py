"""What a training run is told. Free of torch, so that params.yaml is checked in milliseconds."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

Activations = Literal["keep", "selective", "recompute"]


@dataclass(frozen=True)
class FitConfig:
    """Counts are in optimiser steps unless a comment says otherwise."""

    steps: Annotated[int, Ge(1)]  # length of the run
    batch_size: Annotated[int, Ge(1)]  # examples the model sees at once (a micro-batch)
    learning_rate: Annotated[float, Gt(0)]  # at the end of the warm-up
    warmup: Annotated[int, Ge(0)]  # steps of linear rise; fewer than steps
    validate_every: Annotated[int, Ge(1)]  # the end is always validated
    save_every: Annotated[int, Ge(1)]  # a checkpoint; the end is always saved
    seed: Annotated[int, Ge(0)]  # of dropout; the data's order has its own
    accumulation: Annotated[int, Ge(1)] = 1  # micro-batches a step: a step uses batch_size * accumulation examples
    final_share: Annotated[float, Interval(ge=0, le=1)] = 0.0  # of learning_rate, where the cosine ends
    weight_decay: Annotated[float, Ge(0)] = 0.05  # decoupled; matrices only
    betas: tuple[Annotated[float, Interval(ge=0, lt=1)], Annotated[float, Interval(ge=0, lt=1)]] = (0.9, 0.98)
    clip: Annotated[float, Gt(0)] = 1.0  # largest global gradient norm; .inf never clips
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast, weights stay fp32
    keep: Literal["last", "best"] = "last"  # the weights that the run ends with; best: by validation, the earliest
    log_every: Annotated[int, Ge(1)] = 20  # a point of the curves, the mean over these steps
    workers: Annotated[int, Interval(ge=0, le=64)] = 0  # processes that prepare batches; changes no bit

    def __post_init__(self) -> None:
        if self.warmup >= self.steps:
            raise ValueError(f"warmup {self.warmup} must be below steps {self.steps}")
