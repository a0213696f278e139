"""A lineage for the eyes: a tree in the terminal, and one page that needs nothing beside it, with a picture."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.tree import Tree

from components.durable import write_whole
from components.evaluation.pages import render
from flows.graph import File
from flows.lineage.trace import Lineage, as_dict
from flows.releases.recorded import Step, overlap

WIDTH, HEIGHT, ACROSS, DOWN = 196, 46, 250, 62  # of a box; from one box to the next. Pixels
SHORT = 10  # letters of a hash


def tree(lineage: Lineage) -> Tree:
    """Version, answer, experiments, sources and stages, for rich."""
    head = f"[bold]{escape(lineage.name)}@{lineage.version}[/]  commit {lineage.commit[:SHORT]}  {lineage.time}"
    root = Tree(f"{head}  {escape(lineage.subject)}")
    if lineage.request:
        row = lineage.request
        root.add(f"answered request {row['id']} as {row['role']} on {row['route']}, HTTP {row['status']}")
    tags = root.add("tags")
    for tag in lineage.tags:
        tags.add(f"{tag.time}  {tag.action} {tag.stage or tag.version}")
    if lineage.experiments:
        trials = root.add("experiments")
        for row in lineage.experiments:
            trials.add(escape(trial(lineage, row)))
    origins = root.add("sources")
    for source in lineage.sources:
        origins.add(f"{escape(source.place)}  {source.hash[:SHORT]}  read by {escape(source.step)}")
    for step in lineage.steps:
        branch = root.add(f"[bold]{escape(step.name)}[/]  {escape(step.description)}")
        for file in step.inputs:
            if file.role != "code":
                branch.add(f"{'<' if file.role == 'input' else '<<'} {_file(file)}")
        code = sum(file.role == "code" for file in step.inputs)
        if code:
            branch.add(f"< {code} {'file' if code == 1 else 'files'} of code at commit {lineage.commit[:SHORT]}")
        for key, value in step.params.items():
            branch.add(escape(f"{key}: {json.dumps(value, ensure_ascii=False)}"))
        for file in step.outputs:
            branch.add(f"> {_file(file)}")
    return root


def trial(lineage: Lineage, row: dict[str, Any]) -> str:
    """One line on an experiment."""
    side = "challenger" if row["challenger"] == lineage.version else "champion"
    other = row["champion" if side == "challenger" else "challenger"]
    decision = (row["verdict"] or {}).get("decision", "")
    return f"{row['id']}: {side} against {other}, {row['state']} {decision}".rstrip()


def _file(file: File) -> str:
    return f"{escape(file.path)}  {file.hash[:SHORT]}" + (f"  {file.size:,} bytes" if file.size is not None else "")


def write_page(lineage: Lineage, path: Path) -> None:
    """One HTML file, whole: no script, no other file, light and dark."""
    values = vars(lineage) | {
        "request": as_dict(lineage)["request"],
        "picture": picture(lineage),
        "trials": [(row, trial(lineage, row)) for row in lineage.experiments],
    }
    plain = partial(json.dumps, ensure_ascii=False, indent=1)
    page = render(Path(__file__).with_name("page.html.jinja"), {"plain": plain}, values)
    write_whole(path, page.encode())


def picture(lineage: Lineage) -> dict[str, Any]:
    """Boxes and arrows of the chain, left to right: sources, stages, the version. Pixels."""
    before = _edges(lineage)
    column: dict[str, int] = {}
    for name, others in before.items():  # upstream first
        column[name] = 1 + max((column[other] for other in others), default=-1)
    rows = {number: [name for name, at in column.items() if at == number] for number in set(column.values())}
    most = max(len(names) for names in rows.values())
    place = {
        name: (12 + number * ACROSS, 12 + int((index + (most - len(names)) / 2) * DOWN))
        for number, names in rows.items()
        for index, name in enumerate(names)
    }
    steps = {step.name: step for step in lineage.steps}
    final = f"{lineage.name}@{lineage.version}"
    boxes = [
        {
            "x": x,
            "y": y,
            "name": _shortened(name),
            "whole": name,
            "kind": "stage" if name in steps else "version" if name == final else "source",
            "note": _note(lineage, name, steps),
        }
        for name, (x, y) in place.items()
    ]
    arrows = [_arrow(place[other], place[name]) for name, others in before.items() for other in sorted(others)]
    size = (24 + WIDTH + max(column.values()) * ACROSS, 24 + HEIGHT + (most - 1) * DOWN)
    return {"boxes": boxes, "arrows": arrows, "width": size[0], "height": size[1], "w": WIDTH, "h": HEIGHT}


def _edges(lineage: Lineage) -> dict[str, set[str]]:
    """Box -> the boxes right before it, upstream first."""
    before: dict[str, set[str]] = {source.place: set() for source in lineage.sources}
    for step in lineage.steps:
        makers = {
            other.name
            for other in lineage.steps
            for file in step.inputs
            for out in other.outputs
            if file.role == "input" and overlap(file.path, out.path)
        }
        before[step.name] = makers | {source.place for source in lineage.sources if source.step == step.name}
    before[f"{lineage.name}@{lineage.version}"] = {lineage.steps[-1].name}
    return before


def _note(lineage: Lineage, name: str, steps: dict[str, Step]) -> str:
    if name in steps:
        return next((out.hash[:SHORT] for out in steps[name].outputs if out.hash), "")
    found = next((source.hash[:SHORT] for source in lineage.sources if source.place == name), None)
    return lineage.commit[:SHORT] if found is None else found or "address"


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    (x1, y1), (x2, y2) = (start[0] + WIDTH, start[1] + HEIGHT // 2), (end[0] - 5, end[1] + HEIGHT // 2)
    bend = (ACROSS - WIDTH) // 2
    return f"M{x1},{y1} C{x1 + bend},{y1} {x2 - bend},{y2} {x2},{y2}"


def _shortened(name: str, letters: int = 24) -> str:
    return name if len(name) <= letters else f"…{name[1 - letters :]}"
