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

from components.inference.experiment import sample_ratio
from components.inference.experiment.config import Design, Metric
from components.inference.experiment.users import Log, observe
from components.inference.experiment.verdict import Estimate, Verdict, duration, verdict
from components.inference.pointer import write_whole

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
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(figure=_number, duration=duration)
    *_, last = verdicts
    return environment.get_template("report.html.jinja").render(
        design=design,
        last=last,
        title=TITLES[last.decision],
        rows=list(zip(last.estimates, design.primary + design.guardrails, strict=True)),
        picture=_data_uri(design, verdicts),
        alarm=sample_ratio.ALARM,
        looks=len(verdicts),
    )


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


def _number(value: float, metric: Metric, sign: bool = False) -> str:
    """As people read it: rates in per cent, others with their unit."""
    if not math.isfinite(value):
        return "open"
    if metric.kind == "rate":
        return f"{100 * value:{'+' if sign else ''}.2f} %"
    return f"{value:{'+' if sign else ''}.4g}{' ' * bool(metric.unit)}{metric.unit}"


def _data_uri(design: Design, verdicts: Sequence[Verdict]) -> str:
    """The intervals over users, a panel a metric, as SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    metrics = design.primary + design.guardrails
    columns = min(2, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    figure = Figure(figsize=(5.4 * columns, 3.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, metric, *history in zip(panels, metrics, *(each.estimates for each in verdicts), strict=False):
        _panel(axes, metric, [each.champion_users + each.challenger_users for each in verdicts], history)
    for axes in list(panels):  # those left over
        axes.set_visible(False)
    target = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": design.experiment}):  # the same page from the same figures
        figure.savefig(target, format="svg", metadata={"Date": None})
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
