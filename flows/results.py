"""The short table with which a run ends: each figure with its interval, floor and chance, as the stages wrote them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def show(workspace: Path, console: Console) -> None:
    """Print reports/summary.json, or each stage's main metric where there is no report; and the report's path."""
    summary = workspace / "reports" / "summary.json"
    if summary.is_file():
        table = Table("stage", "data", "split", "metric", "value", "95%", "floor", "chance", box=None, pad_edge=False)
        for row in json.loads(summary.read_text()):
            interval = f"{_figure(row['low'])} - {_figure(row['high'])}" if row.get("low") is not None else ""
            arrow = {"higher": "↑", "lower": "↓"}.get(row["direction"], "")
            figures = (_figure(row["value"]), interval, _figure(row.get("floor")), _figure(row.get("chance")))
            table.add_row(row["stage"], row["data"], row["split"], f"{row['metric']} {arrow}", *figures)
        console.print(table)
    else:
        table = Table("stage", "metric", "value", box=None, pad_edge=False)
        for stage, metric, value in _main_metrics(workspace / "reports"):
            table.add_row(stage, metric, _figure(value))
        if table.row_count:
            console.print(table)
    report = workspace / "reports" / "report.html"
    if report.is_file():
        console.print(f"Report: {report}")


def _main_metrics(reports: Path) -> Iterator[tuple[str, str, Any]]:
    for path in sorted(reports.glob("**/metrics.json")):
        metrics = json.loads(path.read_text())
        if metrics:  # the main one stands first
            metric, value = next(iter(metrics.items()))
            yield "@".join(path.parent.relative_to(reports).parts), metric, value


def _figure(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
