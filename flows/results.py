"""The short tables with which a run ends: figures with interval, floor and chance, verdicts, or what makes models fast;
as the stages wrote them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def show(workspace: Path, groups: list[str], console: Console) -> None:
    """Print the results of these groups as their page has them, or each stage's main metric where there is no page;
    and the page's path. Of `production`, which has none, each model's variants."""
    reports, study = workspace / "reports", groups == ["study"]
    if "production" in groups:
        for path in sorted(reports.glob("optimise/*/variants.json")):
            console.print(_variants(path.parent.name, json.loads(path.read_text())))
        if groups == ["production"]:
            return
    page = reports / "study" / "study.html" if study else reports / "report.html"
    results = reports / "study" / "verdicts.json" if study else reports / "summary.json"
    if results.is_file():
        rows = json.loads(results.read_text())
        console.print(_verdicts(rows) if study else _figures(rows))
    elif (metrics := _metrics(reports)).row_count:
        console.print(metrics)
    if page.is_file():
        console.print(f"Report: {page}")


def _figures(rows: list[dict[str, Any]]) -> Table:
    table = Table("stage", "data", "split", "metric", "value", "95%", "floor", "chance", box=None, pad_edge=False)
    for row in rows:
        interval = f"{_figure(row['low'])} - {_figure(row['high'])}" if row.get("low") is not None else ""
        arrow = {"higher": "↑", "lower": "↓"}.get(row["direction"], "")
        figures = (_figure(row["value"]), interval, _figure(row.get("floor")), _figure(row.get("chance")))
        table.add_row(row["stage"], row["data"], row["split"], f"{row['metric']} {arrow}", *figures)
    return table


def _verdicts(findings: list[dict[str, Any]]) -> Table:
    table = Table("claim", "figure", "95%", "wanted", "verdict", "shown by", box=None, pad_edge=False)
    for each in findings:
        figure, interval = "", ""
        if found := each["interval"]:
            figure = f"{_figure(found['value'])} {each['unit']}"
            interval = f"{_figure(found['low'])} to {_figure(found['high'])}"
        table.add_row(each["claim"], figure, interval, each["wanted"], each["verdict"], each["stage"])
    return table


def _variants(name: str, found: dict[str, Any]) -> Table:
    items, metric = f"{found['items']}/s", found["metric"].replace("_", " ")
    table = Table(name, "p50 ms", "p99 ms", items, "memory MiB", "size MiB", metric, "", box=None, pad_edge=False)
    for row in found["rows"]:
        times = (f"{1e3 * row['p50']:.2f}", f"{1e3 * row['p99']:.2f}", f"{row['throughput']:,.0f}")
        sizes = (f"{row['memory'] / 2**20:.1f}", f"{row['size'] / 2**20:.2f}", _figure(row["quality"]))
        table.add_row(row["variant"], *times, *sizes, "served" if row["variant"] == found["chosen"] else "")
    return table


def _metrics(reports: Path) -> Table:
    table = Table("stage", "metric", "value", box=None, pad_edge=False)
    for stage, metric, value in _main_metrics(reports):
        table.add_row(stage, metric, _figure(value))
    return table


def _main_metrics(reports: Path) -> Iterator[tuple[str, str, Any]]:
    for path in sorted(reports.glob("**/metrics.json")):
        metrics = json.loads(path.read_text())
        if metrics:  # the main one stands first
            metric, value = next(iter(metrics.items()))
            yield "@".join(path.parent.relative_to(reports).parts), metric, value


def _figure(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
