"""Measures what the training engine's options cost and give, one changed at a time: speed, memory, loss.

Rows in rows.json, told apart by `table`:
- speed: seconds of a training step and peak memory of a decoder with each option, round by round, each option in a
  process of its own that stays (a compiled one compiles once), so that ratios pair what ran in the same minute;
- loss: validation loss after the same steps over the same data, by seed, of a decoder small enough to repeat.
The texts are walks over a random graph, so that no data set is needed. Each row says where. Runs alone on its machine.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Interval, MinLen

from components.decoders.config import DecoderConfig
from components.training.config import FitConfig
from flows.stages.runtime import Stage, start, write_atomically

if TYPE_CHECKING:
    import torch

    from components.data.loader import Loader
    from components.decoders.causal import CausalDecoder

Option = Literal["bf16", "fp16", "accumulation", "selective", "recompute", "compile"]
PARTS = 4  # micro-batches of `accumulation`
WARM = 2  # steps before the first that counts
VALID = 64  # walks


@dataclass(frozen=True)
class Side:
    """A decoder, how it is trained, and which options it is trained with besides none."""

    decoder: DecoderConfig
    vocabulary: Annotated[int, Interval(ge=8, le=1_000_000)]
    fit: FitConfig  # steps of `speed`: those of one round
    options: list[Option]

    def __post_init__(self) -> None:
        if self.fit.batch_size % PARTS:
            raise ValueError(f"batch_size {self.fit.batch_size} does not divide by the {PARTS} parts of accumulation")


@dataclass(frozen=True)
class Params:
    group: Literal["core", "study"]
    speed: Side
    loss: Side
    rounds: Annotated[int, Ge(2)]
    seeds: Annotated[list[int], MinLen(2)]
    threads: Annotated[int, Interval(ge=1)] = 1
    device: Literal["cpu", "cuda"] = "cpu"


def cost(params: Params) -> str:
    steps = (params.rounds * params.speed.fit.steps + WARM) * (1 + len(params.speed.options))
    runs = len(params.seeds) * (1 + len(params.loss.options))
    return f"{steps:,} timed steps and {runs} runs of {params.loss.fit.steps:,} steps; the machine to itself"


def changed(config: FitConfig, option: str) -> FitConfig:
    """The configuration with one option on."""
    match option:
        case "bf16" | "fp16":
            return replace(config, precision=option)
        case "accumulation":
            return replace(config, accumulation=PARTS, batch_size=config.batch_size // PARTS)
        case "selective" | "recompute":
            return replace(config, activations=option)
        case "compile":
            return replace(config, compile=True)
        case _:
            return config


class GuessNext:
    """Cross-entropy of the next token of a walk."""

    better: Literal["lower"] = "lower"

    def __init__(self, model: "CausalDecoder", valid: "torch.Tensor") -> None:
        self.model, self.valid = model, valid

    def loss(self, batch: "torch.Tensor") -> tuple["torch.Tensor", dict[str, Any]]:
        return self.model.loss(batch[:, :-1], batch[:, 1:]), {}

    def validate(self) -> dict[str, float]:
        return {"loss": float(self.loss(self.valid)[0])}


def made(side: Side, config: FitConfig, device: str) -> tuple[GuessNext, "Loader"]:
    """Task and batches: the same model and examples whatever the option."""
    import torch

    from components.data.loader import Loader
    from components.data.tokens import collate
    from components.data.walks import Walks
    from components.decoders.causal import CausalDecoder

    length = side.decoder.context
    torch.manual_seed(config.seed)
    model = CausalDecoder(side.decoder, side.vocabulary).to(device)
    unseen = Walks(side.vocabulary, length, config.seed + 1_000_000, VALID)
    valid = collate([unseen(index, None) for index in range(VALID)]).to(device)
    batches = Loader(Walks(side.vocabulary, length, config.seed, 1 << 20), collate, config.batch_size, config.seed)
    return GuessNext(model, valid), batches


def stepping(params: Params, option: str) -> Callable[[], tuple[float, int]]:
    """Seconds a step of one round, and the peak memory since the model was made. Stays compiled while it lives."""
    import time

    import torch

    from components.training.activations import set_activations
    from components.training.compiled import activations_of, compiled
    from components.training.memory import Gauge
    from components.training.state import State
    from components.training.step import train_step

    config = changed(params.speed.fit, option)
    task, batches = made(params.speed, config, params.device)
    device = torch.device(params.device)
    gauge, state, stream = Gauge(device), State.begin(task.model, config), batches(0)
    set_activations(task.model, activations_of(config))
    task.model.train()
    ExitStack().enter_context(compiled(task.model, config))
    for _ in range(WARM):
        train_step(task, state, config, stream)

    def one_round() -> tuple[float, int]:
        began = time.perf_counter()
        for _ in range(config.steps):
            train_step(task, state, config, stream)
        state.window.clear()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / config.steps, gauge.peak()

    return one_round


def speeds(params: Params) -> Iterator[dict[str, Any]]:
    from components.evaluation.apart import Apart

    options = ["none", *params.speed.options]
    with ExitStack() as stack:
        sides = {option: stack.enter_context(Apart(lambda each=option: stepping(params, each))) for option in options}
        for number in range(params.rounds):
            for option, side in sides.items():
                seconds, peak = side()
                yield {
                    "table": "speed",
                    "option": option,
                    "round": number,
                    "seconds": seconds,
                    "peak_bytes": peak,
                }
                print(f"round {number + 1} of {params.rounds}: {option} {1000 * seconds:.0f} ms a step", flush=True)


def losses(params: Params) -> Iterator[dict[str, Any]]:
    from components.training.fit import fit

    for seed in params.seeds:
        for option in ("none", *params.loss.options):
            config = changed(replace(params.loss.fit, seed=seed), option)
            history = fit(*made(params.loss, config, params.device), config, checkpoints=None)
            yield {"table": "loss", "option": option, "seed": seed, "loss": history.figures["loss"]}


def run(params: Params, stage: Stage) -> None:
    from components.evaluation.measure import machine
    from components.evaluation.plots import factors
    from components.evaluation.verdicts import mean

    measured = [*speeds(params), *losses(params)]
    where = machine(params.device)  # last: whoever asks for a GPU's name cannot fork any more
    rows = [row | where for row in measured]
    write_atomically(stage.reports / "rows.json", json.dumps(rows, indent=1) + "\n")
    ratios: dict[str, dict[str, Any]] = {"time of a step": {}, "peak memory": {}}
    for option in params.speed.options:
        for title, name in (("time of a step", "seconds"), ("peak memory", "peak_bytes")):
            sides = [
                [row[name] for row in rows if row["table"] == "speed" and row["option"] == each]
                for each in (option, "none")
            ]
            ratios[title][option] = mean([a / b for a, b in zip(*sides, strict=True)], ratio=True)
    factors(ratios, "times that without").savefig(stage.reports / "figure.png", dpi=110)
    stage.write_metrics({f"{option}_time": each.value for option, each in ratios["time of a step"].items()})


if __name__ == "__main__":
    start(__file__, Params, cost, run)
