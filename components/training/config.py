"""What a training run is told. Free of torch, so that params.yaml is checked in milliseconds."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from components.choices import check_choices

Activations = Literal["keep", "selective", "recompute"]
Precision = Literal["fp32", "bf16", "fp16"]
Schedule = Literal["cosine", "linear", "wsd", "constant"]


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
    schedule: Schedule = "cosine"  # of the learning rate after the warm-up (schedule.py)
    final_share: Annotated[float, Interval(ge=0, le=1)] = 0.0  # of learning_rate, where the schedule ends
    decay_share: Annotated[float, Interval(gt=0, le=1)] = 0.1  # of all steps, in which wsd falls
    optimiser: Literal["adamw", "muon"] = "adamw"  # muon: for the blocks' matrices, adamw for all else
    weight_decay: Annotated[float, Ge(0)] = 0.05  # decoupled; matrices only
    betas: tuple[Annotated[float, Interval(ge=0, lt=1)], Annotated[float, Interval(ge=0, lt=1)]] = (0.9, 0.98)
    layer_decay: Annotated[float, Interval(gt=0, le=1)] = 1.0  # learning rate of a block, in that of the next higher
    clip: Annotated[float, Gt(0)] = 1.0  # largest global gradient norm; .inf never clips
    precision: Precision = "fp32"  # bf16, fp16: autocast, weights stay fp32; fp16 with a dynamic loss scale
    activations: Activations = "keep"  # what the backward pass computes again to save memory (activations.py)
    compile: bool = False  # blocks by torch.compile: minutes before the first step, for each shape of batch
    ema: Annotated[float, Interval(ge=0, lt=1)] = 0.0  # decay a step of the averaged weights, which are judged; 0: none
    keep: Literal["last", "best"] = "last"  # the weights that the run ends with; best: by validation, the earliest
    patience: Annotated[int, Ge(0)] = 0  # validations without a better one after which the run stops; 0: never
    log_every: Annotated[int, Ge(1)] = 20  # a point of the curves, the mean over these steps
    profile: Annotated[int, Ge(0)] = 0  # steps to trace after a few warm ones; 0: none
    workers: Annotated[int, Interval(ge=0, le=64)] = 0  # processes that prepare batches; changes no bit

    def __post_init__(self) -> None:
        check_choices(self)
        if self.warmup >= self.steps:
            raise ValueError(f"warmup {self.warmup} must be below steps {self.steps}")
        if self.schedule == "wsd" and self.warmup + self.decay_share * self.steps > self.steps:
            raise ValueError(
                f"warmup {self.warmup} and a decay_share of {self.decay_share:g} do not fit into {self.steps} steps: "
                "lower one of them"
            )
        if self.patience and self.keep != "best":
            raise ValueError(
                "patience stops a run that gets no better, which asks for its best weights: set keep: best"
            )
