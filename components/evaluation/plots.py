"""Plots of a study: costs along a length, and factors with their intervals."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from matplotlib.figure import Figure

from components.evaluation.bootstrap import Interval

Number = int | float
BAR = "#3b6ea8"


def curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[Number, Number]]]],
    along: str,
    up: Literal["log", "linear"] = "log",
) -> Figure:
    """A panel a title, a line a name; along a logarithmic axis, and up one as costs are read (or a linear one)."""
    figure = Figure(figsize=(5.4 * len(panels), 3.8), layout="constrained")
    for axes, (title, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, points in series.items():
            axes.plot(*zip(*points, strict=True), marker=".", label=name.replace("_", " "), linewidth=1.5)
        axes.set(title=title, xlabel=along)
        axes.set(xscale="log", yscale=up)
        places = sorted({x for points in series.values() for x, _ in points})
        axes.set_xticks(places, [f"{place:g}" for place in places], fontsize=8)
        axes.minorticks_off()
        axes.grid(color="#e3e1dc", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    return figure


def factors(panels: Mapping[str, Mapping[str, Interval]], label: str, even: Number = 1.0) -> Figure:
    """A panel a title, a line a factor with its 95% interval, beside `even`, where it changes nothing."""
    most = max(len(each) for each in panels.values())
    figure = Figure(figsize=(5.4 * len(panels), 1.1 + 0.36 * most), layout="constrained")
    for axes, (title, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for place, (_, each) in enumerate(reversed(list(series.items()))):
            if math.isfinite(each.high):
                axes.plot([each.low, each.high], [place, place], color=BAR, linewidth=5, alpha=0.35)
            axes.plot(each.value, place, "o", color=BAR)
        axes.set_yticks(range(len(series)), [name.replace("_", " ") for name in reversed(list(series))])
        axes.axvline(even, color="#444444", linestyle="--", linewidth=1)
        axes.set(title=title, xlabel=label)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
