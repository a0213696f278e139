"""The circle on one page that needs nothing beside it: what served when, how good it was, and what was decided."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.evaluation.pages import render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#2f4b8f", "#21704a", "#b4572f", "#7a4f9a", "#8a7a2f")  # of versions, in their order
LEAST = 8  # answers of a version in one point of the curve


def page(told: dict[str, Any]) -> str:
    """HTML of what story.py has written down."""
    filters = {
        "percent": lambda value: f"{value:.1%}",
        "points": lambda value: f"{100 * value:+.1f}",
        "clock": lambda seconds: f"{int(seconds) // 60}:{int(seconds) % 60:02}",
    }
    trials = [
        row | {"estimate": next(e for e in row["verdict"]["estimates"] if e["metric"] == told["metric"])}
        for row in sorted(told["experiments"].values(), key=lambda row: row["started"])
    ]
    values = told | {"picture": picture(told), "trials": trials}
    return render(Path(__file__).with_name("page.html.jinja"), filters, values)


def picture(told: dict[str, Any]) -> str:
    """Accuracy by version over time with numbered events, and below it who served; SVG in a data URI."""
    import matplotlib
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(11, 5.4), layout="constrained")
    above, below = drawing.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    names = [each["version"] for each in told["versions"]]
    colours: dict[str, str] = dict(zip(names, COLOURS * (1 + len(names) // len(COLOURS)), strict=False))
    for name in names:
        some = [(at, right, count) for at, version, right, count in told["accuracy"] if version == name]
        some = [(at, right / count) for at, right, count in some if count >= LEAST]
        if some:
            minutes, rates = zip(*((at / 60, 100 * rate) for at, rate in some), strict=True)
            above.plot(minutes, rates, ".", color=colours[name], label=name, markersize=6)
    for number, event in enumerate(told["events"], 1):
        above.axvline(event["time"] / 60, color="#bbb7ae", linewidth=0.8, zorder=0)
        above.annotate(
            str(number),
            (event["time"] / 60, 1.01 + 0.045 * (number % 2)),
            xycoords=("data", "axes fraction"),
            ha="center",
            fontsize=8,
            color="#5d6575",
        )
    above.set(ylabel="answers that are right, %", ylim=(-3, 103))
    above.legend(loc="center left", frameon=False)
    _served(below, told, colours)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    target = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "circle"}):
        drawing.savefig(target, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(target.getvalue()).decode()}"


def _served(axes: "Axes", told: dict[str, Any], colours: dict[str, str]) -> None:
    """A bar for champion and challenger from one move of the pointer to the next."""
    last = max((at for at, *_ in told["accuracy"]), default=0.0)
    ends = [move[0] for move in told["moves"][1:]] + [last]
    for (begin, *both), end in zip(told["moves"], ends, strict=True):
        for row, version in enumerate(both):
            if version:
                axes.barh(row, (end - begin) / 60, left=begin / 60, height=0.7, color=colours[version])
    axes.set(yticks=[0, 1], yticklabels=["champion", "challenger"], ylim=(1.6, -0.6), xlabel="minutes since the start")
