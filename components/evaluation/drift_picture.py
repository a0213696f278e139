"""A panel a feature: the distribution that the model was trained on, and the new one; what has drifted is red."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from components.evaluation.drift import Shift

BEFORE, AFTER, DRIFTED, SAME = "#8a9bb0", "#1f6fb2", "#b3382c", "#444444"
COLUMNS, BINS = 3, 24
NAMED = 12  # classes with a bar each: those whose share changed most


def picture(shifts: Sequence[Shift], sides: Mapping[str, tuple[Any, Any]]) -> Figure:
    """sides: feature -> both sets' values: numbers, or names of classes."""
    columns = min(COLUMNS, len(shifts))
    lines = math.ceil(len(shifts) / columns)
    figure = Figure(figsize=(4.4 * columns, 2.9 * lines), layout="constrained")
    places = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, shift in zip(places, shifts, strict=False):
        before, after = sides[shift.feature]
        (_bars if shift.test == "chi-square" else _distributions)(axes, before, after)
        colour = DRIFTED if shift.drifted else SAME
        said = "DRIFTED" if shift.drifted else "no drift"
        axes.set_title(
            f"{shift.feature}: {said}\n{shift.moved}; effect {shift.effect:.2f}, p {shift.corrected:.2g}",
            fontsize=9,
            color=colour,
            weight="bold" if shift.drifted else "normal",
        )
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in places[len(shifts) :]:
        axes.axis("off")
    places[0].legend(frameon=False, fontsize=8)
    return figure


def _distributions(axes: Axes, before: Any, after: Any) -> None:
    both = np.concatenate([before, after])
    low, high = np.quantile(both, [0.005, 0.995])  # a single outlier must not squeeze the rest
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    for values, colour, name in ((before, BEFORE, "trained on"), (after, AFTER, "new")):
        weights = np.full(len(values), 1 / len(values))
        axes.hist(np.clip(values, edges[0], edges[-1]), edges, weights=weights, color=colour, alpha=0.6, label=name)
    axes.set_ylabel("share", fontsize=8)


def _bars(axes: Axes, before: Sequence[str], after: Sequence[str]) -> None:
    names = sorted(set(before) | set(after))
    shares = np.array([[list(side).count(name) / len(side) for name in names] for side in (before, after)])
    shown = np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")[:NAMED]
    places = np.arange(len(shown))
    axes.bar(places - 0.2, shares[0, shown], 0.4, color=BEFORE, label="trained on")
    axes.bar(places + 0.2, shares[1, shown], 0.4, color=AFTER, label="new")
    axes.set_xticks(places, [names[place][:14] for place in shown], rotation=30, ha="right")
    axes.set_ylabel("share", fontsize=8)
