"""What a run did, point by point: curves.jsonl for tools, curves.png for people. No times: equal runs, equal bytes."""

import json
from pathlib import Path

Row = dict[str, int | float]  # "step" and what was measured there; validation figures are named valid_...


def write_curves(folder: Path, rows: list[Row]) -> None:
    """Write both files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "curves.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    draw(folder / "curves.png", rows)


def draw(path: Path, rows: list[Row]) -> None:
    """A panel for each figure, training and validation in the same one."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for row in rows for name in row if name != "step"))
    panels = list(dict.fromkeys(name.removeprefix("valid_") for name in names))
    figure = Figure(figsize=(4 * len(panels), 3), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, label in ((panel, "training"), (f"valid_{panel}", "validation")):
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 40 else "")
        axes.set(title=panel.replace("_", " "), xlabel="step")
        if f"valid_{panel}" in names:
            axes.legend()
    figure.savefig(path, dpi=100)
