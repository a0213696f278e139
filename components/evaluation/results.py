"""The rows of summary.json: one figure on one split, with what is needed to judge it."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from matplotlib.figure import Figure

from components.evaluation.bootstrap import Interval


@dataclass(frozen=True)
class Result:
    """One figure. Rates are shares from 0 to 1 (word error rate may exceed 1)."""

    metric: str
    direction: Literal["higher", "lower"]  # which is better
    interval: Interval  # 95%, by bootstrap over the split
    floor: float  # a linear model (xz for plain text) on the same split
    chance: float  # guessing
    count: int  # units that were resampled
    further: dict[str, int | float] = field(default_factory=dict)  # more figures for metrics.json


@dataclass(frozen=True)
class Judgement:
    """What a judge says of a model: the main result first, a picture, and samples to read."""

    results: list[Result]
    figure: Figure
    samples: list[dict[str, Any]]


def rows(results: list[Result], stage: str, data: str, split: str, seed: int) -> list[dict[str, Any]]:
    """The results as summary rows; `seed` is the training's."""
    return [
        {
            "stage": stage,
            "data": data,
            "split": split,
            "metric": result.metric,
            "direction": result.direction,
            **dataclasses.asdict(result.interval),
            "floor": result.floor,
            "chance": result.chance,
            "count": result.count,
            "seed": seed,
        }
        for result in results
    ]


def metrics(results: list[Result]) -> dict[str, int | float]:
    """The same, flat: the main figure under its own name first, then each with its interval, floor and chance."""
    flat: dict[str, int | float] = {}
    for result in results:
        flat[result.metric] = result.interval.value
        for name in ("low", "high"):
            flat[f"{result.metric}_{name}"] = getattr(result.interval, name)
        flat |= {f"{result.metric}_floor": result.floor, f"{result.metric}_chance": result.chance}
        flat |= result.further
    return flat
