import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from components.evaluation.bootstrap import over_seeds
from flows.stages import report
from flows.stages.runtime import Stage, StageError

KEYS = ["stage", "data", "split", "metric", "direction", "value", "low", "high", "floor", "chance", "count", "seed"]
TASKS = {
    "accuracy": ("train_image", "classification"),
    "word_error_rate": ("train_speech", "transcription"),
    "recall@1": ("train_clip", "retrieval"),
    "bits_per_byte": ("train_decoder", "language"),
}
SAMPLES: dict[str, list[dict[str, Any]]] = {
    "classification": [{"key": "7", "text": "<b>&", "label": "a", "predicted": "b", "probability": 0.9}],
    "transcription": [{"voice": "v", "reference": "a", "transcript": "b", "errors": 1, "words": 1, "key": "1"}] * 13,
    "retrieval": [{"key": "1", "caption": "a", "found": ["a"]}],
    "language": [{"prompt": "once", "text": " upon a time"}],
}

DIGEST = [
    {
        "claim": "Water is wet",
        "figure": "wetness, by round",
        "wanted": "above 1",
        "interval": {"value": 1.2345, "low": 1.1, "high": 1.4},
        "verdict": "holds",
        "stage": "measure_water",
        "unit": "times",
    }
]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "reports" / "validate" / "things"
    source.mkdir(parents=True)
    counts = {"records": 30, "train": 20, "valid": 5, "test": 5, "bad": 2, "classes": 2, "bytes": 12345}
    (source / "metrics.json").write_text(json.dumps(counts))
    (tmp_path / "reports" / "digest").mkdir()
    (tmp_path / "reports" / "digest" / "verdicts.json").write_text(json.dumps(DIGEST))
    (source / "quarantine.jsonl").write_text('{"reason": "not a picture"}\n' * 2)
    return Stage("report", "", report.Params("A title"), tmp_path)


def evaluation(
    stage: Stage, name: str, metric: str, value: float, seed: int = 0, recipe: str = "a"
) -> list[dict[str, Any]]:
    folder = stage.root / "reports" / "evaluate" / name
    folder.mkdir(parents=True)
    made_by, task = TASKS[metric]
    direction = "higher" if metric in ("accuracy", "recall@1") else "lower"
    figures = [value, value - 0.01, value + 0.01, 0.5, 0.1, 5, seed]
    rows = [dict(zip(KEYS, [made_by, "things", "test", metric, direction, *figures], strict=True))]
    (folder / "results.json").write_text(json.dumps(rows))
    about = {
        "stage": made_by,
        "run": name,
        "source": "things",
        "task": task,
        "model": name,
        "recipe": recipe,
        "samples": SAMPLES[task],
        "curves": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "valid_loss": 1.2}],
    }
    (folder / "about.json").write_text(json.dumps(about))
    Figure().savefig(folder / "figure.png")
    return rows


class Loads(HTMLParser):
    """Everything that a page would fetch, and its text; open tags that are never closed."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]
        if tag not in ("meta", "img", "br", "line", "circle", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None: ...

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_kind_of_run_stands_on_one_page_that_loads_nothing(stage: Stage) -> None:
    written = [evaluation(stage, metric.replace("@", ""), metric, 0.8) for metric in TASKS]
    report.run(stage.params, stage)
    page = (stage.root / "reports" / "report.html").read_text()
    parsed = Loads()
    parsed.feed(page)
    assert parsed.open == []
    others = [address for address in parsed.addresses if not address.startswith(("data:image/png;base64,", "#"))]
    assert others == ["digest/digest.html", "digest/digest.html#measure_water"]
    assert "url(" not in page
    for text in (
        "A title",
        "80.0 %",
        "0.800",
        "once upon a time",
        "not a picture (2)",
        "12 kB",
        "<b>&",
        "Water is wet",
        "1.23",
    ):
        assert text in parsed.text, text
    summary = json.loads((stage.root / "reports" / "summary.json").read_text())
    assert summary == [{**row, "seconds": None} for rows in written for row in rows]


def test_seconds_come_from_the_store_by_the_weights_hash(stage: Stage) -> None:
    evaluation(stage, "one", "accuracy", 0.8)
    store = stage.root / ".store" / "seconds"
    store.mkdir(parents=True)
    (store / "one.json").write_text('{"seconds": 61.5}')
    report.run(stage.params, stage)
    assert json.loads((stage.root / "reports" / "summary.json").read_text())[0]["seconds"] == 61.5


def test_seeds_of_one_recipe_are_averaged_and_others_are_not(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    values = (0.90, 0.92, 0.94)
    for seed, value in enumerate(values):
        evaluation(stage, f"wide_{seed}", "accuracy", value, seed)
    evaluation(stage, "narrow", "accuracy", 0.7, recipe="b")
    report.run(stage.params, stage)
    printed = capsys.readouterr().out
    assert "accuracy 0.9200, mean of 3 seeds" in printed
    assert "narrow on things: accuracy 0.7000, floor" in printed
    page = re.sub(r"\s+", " ", (stage.root / "reports" / "report.html").read_text())
    interval = over_seeds(list(values))
    assert f"<strong>92.0 %</strong><br><small>{100 * interval.low:.1f} – {100 * interval.high:.1f}</small>" in page
    assert len(json.loads((stage.root / "reports" / "summary.json").read_text())) == 4


def test_rates_of_few_seeds_stay_within_what_a_rate_can_be(stage: Stage) -> None:
    for seed, value in enumerate((0.9, 0.99)):
        evaluation(stage, f"run_{seed}", "accuracy", value, seed)
    [group] = report._groups(list(report._runs(stage.root / "reports" / "evaluate")))
    assert (group.interval.low, group.interval.high) == (pytest.approx(0.373, abs=0.001), 1.0)


def test_same_evaluations_same_bytes(stage: Stage) -> None:
    evaluation(stage, "one", "recall@1", 0.8)
    evaluation(stage, "two", "bits_per_byte", 1.8)
    pages = []
    for _ in range(2):
        report.run(stage.params, stage)
        pages.append((stage.root / "reports" / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_nothing_evaluated_is_said(stage: Stage) -> None:
    with pytest.raises(StageError, match="at least one under evaluate"):
        report.run(stage.params, stage)
