"""The rows that stages of the study wrote, and tables of them for people."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Cells as texts; the first of a line names it."""

    stage: str
    title: str
    head: list[str]
    lines: list[list[str]]


class Rows:
    """Rows by stage, of all its keys or of `digest` alone."""

    def __init__(self, reports: Path, digest: bool) -> None:
        self.reports = reports
        self.digest = digest

    def folders(self, stage: str) -> list[Path]:
        """Those of the keys, in order."""
        found = sorted((self.reports / stage).glob("*/rows.json"), key=lambda path: path.parent.name)
        return [path.parent for path in found if (path.parent.name == "digest") == self.digest]

    def of(self, stage: str) -> list[Row]:
        return [row for folder in self.folders(stage) for row in json.loads((folder / "rows.json").read_text())]

    def machine(self, stage: str) -> str:
        """Where its rows were measured; empty for a stage that measures no time."""
        return "; ".join(dict.fromkeys(row["machine"] for row in self.of(stage) if "machine" in row))

    def figures(self, stage: str) -> list[Path]:
        return [folder / "figure.png" for folder in self.folders(stage) if (folder / "figure.png").is_file()]


def table(
    stage: str, title: str, rows: list[Row], *, down: str, across: str, value: Callable[[list[Row]], str]
) -> Table:
    """A line for each `down`, a column for each `across`, and what `value` makes of the rows of each pair.

    Before them a column of the models' parameters, where rows tell them."""
    columns = sorted({row[across] for row in rows}) if rows else []
    sizes = ["parameters"] if rows and "parameters" in rows[0] else []
    lines = []
    for name in dict.fromkeys(row[down] for row in rows):
        own = [row for row in rows if row[down] == name]
        cells = ([row for row in own if row[across] == column] for column in columns)
        most = [f"{max(row[size] for row in own):,}" for size in sizes]
        lines.append([str(name), *most, *(value(cell) if cell else "" for cell in cells)])
    names = [f"{column:,}" if isinstance(column, int) else column for column in columns]
    return Table(stage, title, [down, *sizes, *names], lines)


def by(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows grouped by the values of these columns."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def shares(rows: list[Row], line: str, along: str) -> dict[str, list[tuple[float, float]]]:
    """Mean accuracy of each `line`, in the order of the rows, by `along`, in its own."""
    series: dict[str, list[tuple[float, float]]] = {}
    for (name, place), each in sorted(by(rows, line, along).items(), key=lambda item: item[0][1]):
        series.setdefault(name, []).append((place, sum(row["accuracy"] for row in each) / len(each)))
    return series


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def measured(value: float) -> str:
    """Three digits that matter."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
