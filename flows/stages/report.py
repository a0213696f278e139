"""One page that shows what the models can do: reports/report.html, and its table as reports/summary.json. A second.

Works for whatever was evaluated. The page loads nothing: styles, charts and pictures stand in it.

`seconds`, the time that a row's model took to train, is measured, so it has no place in a file that is to have the same
bytes each time. It lies in the store, under the hash of the weights (`runtime.training_seconds`), and comes in here
alone: report.html and summary.json are the only outputs of the graph whose hash may differ between two equal runs.
Null: the model was trained elsewhere.
"""

import base64
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.evaluation.pages import render
from flows.stages.runtime import Stage, StageError, start, training_seconds, write_atomically

if TYPE_CHECKING:
    from components.evaluation.bootstrap import Interval

TEMPLATE = Path(__file__).with_name("report.html.jinja")
REASONS = 5  # kinds of bad records shown for a source


@dataclass(frozen=True)
class Metric:
    title: str
    meaning: str  # one line for who sees it the first time
    rate: bool = True  # shown as a percentage


METRICS = {
    "accuracy": Metric(
        "Accuracy",
        "share of test records whose likeliest class is the true one. Chance: always the most usual class. "
        "Floor: logistic regression on pixels, log-mel frames, or single words and pairs.",
    ),
    "word_error_rate": Metric(
        "Word error rate",
        "words that are replaced, lost or added, over the words that were said; lower is better. Chance: silence. "
        "Floor: the training sentence nearest to what a ridge regression hears.",
    ),
    "recall@1": Metric(
        "Picture to text, recall@1",
        "share of pictures that find their own caption first among many distinct ones, averaged over all draws of the "
        "others. Chance: one in as many. Floor: ridge regression from pixels to words.",
    ),
    "recall@1_text_to_picture": Metric(
        "Text to picture, recall@1", "the reverse: share of captions that find their own picture first."
    ),
    "changed_attribute": Metric(
        "Choice, one attribute changed",
        "share of copies of the caption, each with one shape, colour, size or place changed, that the caption beats.",
    ),
    "changed_attribute_all": Metric("Choice among all of these", "share of pictures whose caption beats every one."),
    "bits_per_byte": Metric(
        "Bits per byte",
        "what the model needs to write unseen text down, over the text's bytes; lower is better, and tokenizers of any "
        "kind compare. Chance: 8. Floor: xz -9e, which has read the training text.",
        rate=False,
    ),
}


@dataclass(frozen=True)
class Params:
    title: str = "Tsumugi"


@dataclass(frozen=True)
class Run:
    """One evaluation: its rows, what it shows, and how its model was trained."""

    name: str
    rows: list[dict[str, Any]]
    about: dict[str, Any]  # stage, run, source, task, recipe, model, samples, curves
    figure: str  # data URI

    @property
    def recipe(self) -> tuple[Any, ...]:
        """The same for runs that differ in their seed alone; the order of the page."""
        order = list(METRICS).index(self.rows[0]["metric"])
        return order, *(self.about[name] for name in ("stage", "source", "recipe"))


@dataclass(frozen=True)
class Group:
    """Rows of runs that differ in their seed alone."""

    run: str
    rows: list[dict[str, Any]]
    interval: "Interval"  # over the seeds where there are several: Student's, within what a rate can be


def cost(_: Params) -> str:
    return "reads what the evaluations wrote: a second or two"


def run(params: Params, stage: Stage) -> None:
    runs = sorted(_runs(stage.root / "reports" / "evaluate"), key=lambda run: (run.recipe, run.rows[0]["seed"]))
    if not runs:
        raise StageError("reports/evaluate holds no evaluation: state at least one under evaluate in params.yaml")
    cards = [list(same) for _, same in groupby(runs, key=lambda run: run.recipe)]
    groups = [group for card in cards for group in _groups(card)]
    digest = json.loads((stage.root / "reports" / "digest" / "verdicts.json").read_text(encoding="utf-8"))
    page = _render(params, cards, groups, list(_sources(stage.root / "reports" / "validate")), digest)
    rows = [row for run in runs for row in run.rows]
    write_atomically(stage.root / "reports" / "report.html", page)
    write_atomically(stage.root / "reports" / "summary.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    for group in groups:
        first, seeds = group.rows[0], len(group.rows)
        print(
            f"{first['stage']} {group.run} on {first['data']}: {first['metric']} {group.interval.value:.4f}"
            f"{f', mean of {seeds} seeds' if seeds > 1 else ''}, floor {first['floor']:.4f}"
        )


def _runs(evaluations: Path) -> Iterator[Run]:
    """Every evaluation present."""
    for path in evaluations.glob("*/results.json"):
        about = json.loads((path.parent / "about.json").read_text(encoding="utf-8"))
        seconds = training_seconds(about["model"])
        rows = [{**row, "seconds": seconds} for row in json.loads(path.read_text(encoding="utf-8"))]
        yield Run(path.parent.name, rows, about, _data_uri(path.parent / "figure.png"))


def _groups(card: list[Run]) -> Iterator[Group]:
    """One for each figure of runs that differ in their seed alone."""
    from components.evaluation.bootstrap import Interval, over_seeds

    for rows in zip(*(run.rows for run in card), strict=True):
        if len(rows) == 1:
            interval = Interval(*(rows[0][name] for name in ("value", "low", "high")))
        else:
            interval = over_seeds([row["value"] for row in rows])
            most = 1.0 if METRICS[rows[0]["metric"]].rate and rows[0]["direction"] == "higher" else interval.high
            interval = Interval(interval.value, max(interval.low, 0.0), min(interval.high, most))
        yield Group(card[0].about["run"], list(rows), interval)


def _sources(validations: Path) -> Iterator[dict[str, Any]]:
    """Counts of each source, and why records were put aside."""
    for path in sorted(validations.glob("*/metrics.json")):
        reasons: dict[str, int] = defaultdict(int)
        for line in (path.parent / "quarantine.jsonl").read_text(encoding="utf-8").split("\n"):
            if line:
                reasons[json.loads(line)["reason"]] += 1
        common = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:REASONS]
        yield {"name": path.parent.name, "reasons": common, **json.loads(path.read_text(encoding="utf-8"))}


def _render(
    params: Params,
    cards: list[list[Run]],
    groups: list[Group],
    sources: list[dict[str, Any]],
    digest: list[dict[str, Any]],
) -> str:
    from flows.stages.claims.rows import measured

    filters = {
        "figure": _figure,
        "seconds": _seconds,
        "size": _size,
        "name": lambda text: text.replace("_", " "),
        "measured": measured,
    }
    parts = {"track": _track, "panels": _panels, "metrics": METRICS}
    values = {"title": params.title, "cards": cards, "groups": groups, "sources": sources, "digest": digest}
    return render(TEMPLATE, filters, parts | values)


def _figure(value: float, metric: str, sign: bool = True) -> str:
    if METRICS[metric].rate:
        return f"{100 * value:.1f}{' %' if sign else ''}"
    return f"{value:.3f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.1f} min"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _track(group: Group) -> str:
    from markupsafe import Markup

    from components.evaluation.charts import track

    row, shown = group.rows[0], group.interval
    rate = METRICS[row["metric"]].rate
    return Markup(track(shown.value, shown.low, shown.high, row["floor"], row["chance"], whole=rate))


def _panels(curves: list[dict[str, float]]) -> list[dict[str, Any]]:
    """A chart for each figure of a training: training and validation in one."""
    from markupsafe import Markup

    from components.evaluation.charts import lines

    names = dict.fromkeys(name.removeprefix("valid_") for row in curves for name in row if name != "step")
    panels = []
    for name in names:
        series = {
            label: [(row["step"], row[key]) for row in curves if key in row]
            for label, key in (("training", name), ("validation", f"valid_{name}"))
        }
        present = {label: points for label, points in series.items() if points}
        if all(len(points) < 2 for points in present.values()):
            continue  # one point makes no curve
        panels.append({"title": name, "series": list(present), "chart": Markup(lines(present))})
    return panels


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


if __name__ == "__main__":
    start(__file__, Params, cost, run)
