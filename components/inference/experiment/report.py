"""An experiment as one page and one JSON file: the verdict in the first line, the figures behind it, and how they came.

The page carries its figure and its style in it: it can be mailed.
"""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.durable import write_whole
from components.evaluation.pages import render
from components.inference.experiment import sample_ratio
from components.inference.experiment.config import Design, Metric
from components.inference.experiment.users import Log, observe
from components.inference.experiment.verdict import Estimate, Verdict, change, duration, figure, verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS = 40  # of the figure
BAND, LINE, LIMIT = "#9fb2de", "#2f4b8f", "#b4572f"
TITLES = {
    "promote": "Promote the challenger",
    "keep": "Keep the champion",
    "stop": "Stop the experiment, keep the champion",
    "continue": "Go on: nothing is decided yet",
}


def timeline(
    design: Design, seen: Mapping[str, Log], outcomes: Mapping[str, Mapping[str, Log]], looks: int = LOOKS
) -> list[Verdict]:
    """The verdicts that were to be had at `looks` times, evenly from the first request to the last.

    Raises:
        ValueError: no request at all, or what `observe` and `verdict` refuse.
    """
    times = np.concatenate([log.times for log in seen.values()] or [np.zeros(0)])
    if not len(times):
        raise ValueError(f"experiment {design.experiment}: no request yet: there is nothing to report")
    return [
        verdict(design, observe(seen, outcomes, float(time)))
        for time in np.linspace(times.min(), times.max(), looks + 1)[1:]
    ]


def as_json(design: Design, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Plain JSON, with null for what is not a finite number: the design, the verdict, and its history."""
    *_, last = verdicts
    return _finite({"design": asdict(design), "verdict": asdict(last), "history": [asdict(each) for each in verdicts]})


def page(design: Design, verdicts: Sequence[Verdict]) -> str:
    """HTML; the last of the verdicts is the one that counts, all of them make the figure."""
    *_, last = verdicts
    metrics = design.primary + design.guardrails
    users = [each.champion_users + each.challenger_users for each in verdicts]
    histories = zip(*(each.estimates for each in verdicts), strict=True)
    pictures = [_picture(design, metric, users, some) for metric, some in zip(metrics, histories, strict=True)]
    values = {
        "design": design,
        "last": last,
        "title": TITLES[last.decision],
        "rows": list(zip(last.estimates, metrics, strict=True)),
        "pictures": pictures,
        "alarm": sample_ratio.ALARM,
        "looks": len(verdicts),
    }
    filters = {"figure": figure, "change": change, "duration": duration}
    return render(Path(__file__).with_name("report.html.jinja"), filters, values)


def write(folder: Path, design: Design, verdicts: Sequence[Verdict]) -> None:
    """report.html and report.json in the folder, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    record = json.dumps(as_json(design, verdicts), indent=2, allow_nan=False) + "\n"
    for name, text in (("report.json", record), ("report.html", page(design, verdicts))):
        write_whole(folder / name, text.encode())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _picture(design: Design, metric: Metric, users: Sequence[int], history: Sequence[Estimate]) -> str:
    """A metric's intervals over users, as SVG in a data URI."""
    import matplotlib
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(5.4, 3.2), layout="constrained")
    _panel(drawing.subplots(), metric, users, history)
    target = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": design.experiment}):  # the same page from the same figures
        drawing.savefig(target, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(target.getvalue()).decode()}"


def _panel(axes: "Axes", metric: Metric, users: Sequence[int], history: Sequence[Estimate]) -> None:
    scale = 100 if metric.kind == "rate" else 1
    drawn = [(count, each) for count, each in zip(users, history, strict=True) if _drawn(each, metric)]
    limit = metric.effect * (metric.sign if history[-1].role == "primary" else -metric.sign)
    if drawn:
        counts = [count for count, _ in drawn]
        lows, highs, middles = (
            [scale * getattr(each, name) for _, each in drawn] for name in ("low", "high", "difference")
        )
        axes.fill_between(counts, lows, highs, color=BAND, alpha=0.55, linewidth=0)
        axes.plot(counts, middles, color=LINE, linewidth=1.8)
    axes.axhline(0, color="#444444", linewidth=1)
    axes.axhline(scale * limit, color=LIMIT, linewidth=1.2, linestyle="--")
    kind = "gain that matters" if history[-1].role == "primary" else "margin"
    axes.annotate(
        kind,
        (0.01, scale * limit),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        color=LIMIT,
        fontsize=8,
    )
    unit = "percentage points" if metric.kind == "rate" else metric.unit or "difference"
    axes.set_title(f"{metric.name.replace('_', ' ')}: {metric.better} is better", fontsize=10)
    axes.set(xlabel="users", ylabel=unit)
    axes.grid(color="#e3e1dc", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def _drawn(estimate: Estimate, metric: Metric) -> bool:
    """Not the first looks, whose intervals are so wide that they would press the others flat."""
    return math.isfinite(estimate.difference) and estimate.high - estimate.low < 16 * metric.effect
