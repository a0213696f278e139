"""What a judge shows: a confusion matrix, a retrieval grid, word errors by voice, bits a byte by length of context."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RIGHT, WRONG, BAR = "#2a7d4f", "#a63d40", "#3b6ea8"
NUMBERED = 12  # classes up to which each cell shows its count
NAMED = 40  # classes up to which each row and column has its name


def confusion(labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], classes: Sequence[str]) -> Figure:
    """Shares of each true class (rows) that went to each class (columns)."""
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (labels, predicted), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(9.0, 2.5 + 0.42 * len(classes))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shown, ax=axes, shrink=0.75, label="share of the true class")
    axes.set(xlabel="predicted", ylabel="true")
    if len(classes) <= NAMED:
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.55 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    return figure


def retrieval_grid(
    found_captions: Sequence[tuple[Any, str, Sequence[str]]], found_pictures: Sequence[tuple[str, Any, Sequence[Any]]]
) -> Figure:
    """found_captions: (picture, its caption, best captions); found_pictures: (caption, its picture, best pictures).

    Pictures are [h, w, 3] arrays. Right ones stand in green, or in a green frame."""
    lines, best = len(found_captions), max(len(row[2]) for row in found_pictures)
    figure = Figure(figsize=(14, 1.45 * lines + 0.5), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.15, 1))[0]
    left.suptitle("picture to text", fontsize=11)
    for axes, (picture, own, captions) in zip(left.subplots(lines, 2, squeeze=False), found_captions, strict=True):
        _picture(axes[0], picture)
        axes[1].axis("off")
        for place, caption in enumerate(captions):
            axes[1].text(
                -1.3,
                1 - (place + 0.5) / len(captions),
                f"{place + 1}. {textwrap.shorten(caption, 76, placeholder='…')}",
                fontsize=8,
                va="center",
                color=RIGHT if caption == own else "#444444",
                weight="bold" if caption == own else "normal",
                transform=axes[1].transAxes,
            )
    right.suptitle("text to picture", fontsize=11)
    grid = right.subplots(len(found_pictures), best + 1, squeeze=False, width_ratios=[2.4] + [1] * best)
    for axes, (caption, own, pictures) in zip(grid, found_pictures, strict=True):
        axes[0].axis("off")
        axes[0].text(0, 0.5, textwrap.fill(textwrap.shorten(caption, 96, placeholder="…"), 26), fontsize=8, va="center")
        for place, picture in zip(axes[1:], pictures, strict=True):
            _picture(place, picture, RIGHT if picture is own else None)
    return figure


def _picture(axes: Axes, picture: Any, frame: str | None = None) -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=frame is not None, color=frame, linewidth=3)


def bars(groups: dict[str, float], whole: float, label: str) -> Figure:
    """A bar a group, in order of height, equals in order of name, and a line at the figure over all."""
    figure = Figure(figsize=(7, 0.6 + 0.34 * max(3, len(groups))), layout="constrained")
    axes = figure.subplots()
    ordered = sorted(groups, key=lambda name: (groups[name], name))  # groups may come from a set
    axes.barh(ordered, [100 * groups[name] for name in ordered], color=BAR, height=0.7)
    axes.axvline(100 * whole, color="#444444", linestyle="--", linewidth=1)
    axes.set(xlabel=f"{label}, % (dashed: over all)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def by_context(bits: Float[np.ndarray, " context"], floor: float) -> Figure:
    """bits[i]: mean bits a byte of guesses that see i + 1 tokens; `floor`: what xz needs."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(np.arange(1, len(bits) + 1), bits, color=BAR, linewidth=1.5, label="model")
    axes.axhline(floor, color=WRONG, linestyle="--", linewidth=1, label="xz -9e")
    axes.set(xscale="log", xlabel="tokens of context", ylabel="bits a byte")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
