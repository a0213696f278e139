"""What a run prints in the end is what its stages wrote."""

import io
import json
from pathlib import Path

from rich.console import Console

from flows import results

ROW = {"p50": 0.002, "p99": 0.0045, "throughput": 1234.4, "memory": 3 * 2**20, "size": 2**19, "quality": 0.93}
VARIANTS = {
    "metric": "macro_f1",
    "items": "texts",
    "chosen": "int8_weights",
    "rows": [{"variant": "plain", **ROW}, {"variant": "int8_weights", **ROW, "p50": 0.001}],
}


def said(workspace: Path, *groups: str) -> list[list[str]]:
    file = io.StringIO()
    results.show(workspace, list(groups), Console(file=file, width=160))
    return [line.split() for line in file.getvalue().splitlines()]


def test_production_shows_each_models_variants_and_not_an_older_summary(tmp_path: Path) -> None:
    (tmp_path / "reports" / "optimise" / "text").mkdir(parents=True)
    (tmp_path / "reports" / "optimise" / "text" / "variants.json").write_text(json.dumps(VARIANTS))
    (tmp_path / "reports" / "summary.json").write_text("[]")
    assert said(tmp_path, "production") == [
        ["text", "p50", "ms", "p99", "ms", "texts/s", "memory", "MiB", "size", "MiB", "macro", "f1"],
        ["plain", "2.00", "4.50", "1,234", "3.0", "0.50", "0.930"],
        ["int8_weights", "1.00", "4.50", "1,234", "3.0", "0.50", "0.930", "served"],
    ]
    (tmp_path / "reports" / "summary.json").unlink()
    (tmp_path / "reports" / "train").mkdir()
    (tmp_path / "reports" / "train" / "metrics.json").write_text('{"loss": 0.5}')
    assert ["train", "loss", "0.500"] in said(tmp_path, "core", "production")


def test_a_study_ends_with_its_verdicts_and_no_interval_where_nothing_was_measured(tmp_path: Path) -> None:
    about = {"wanted": "above_1", "unit": "times", "stage": "measure"}
    found = [
        {"claim": "faster", "interval": {"value": 2.5, "low": 2.25, "high": 3.0}, "verdict": "holds", **about},
        {"claim": "lighter", "interval": None, "verdict": "needs_a_GPU", **about},
    ]
    (tmp_path / "reports" / "study").mkdir(parents=True)
    (tmp_path / "reports" / "study" / "verdicts.json").write_text(json.dumps(found))
    assert said(tmp_path, "study")[1:] == [
        ["faster", "2.500", "times", "2.250", "to", "3.000", "above_1", "holds", "measure"],
        ["lighter", "above_1", "needs_a_GPU", "measure"],
    ]
