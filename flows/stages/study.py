"""The study's page: every claim about Transformers with what was measured, its interval and a verdict. A second.

reports/study/study.html holds all plots and tables; verdicts.json the table of verdicts for tools. The figures are the
stages' own (rows.json); what each claim asks of them stands in flows/stages/claims/. `digest` makes the same page of
the small selection that the demo measures.
"""

import base64
import dataclasses
import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.evaluation.pages import render
from flows.stages.runtime import Stage, StageError, start, write_atomically

TEMPLATE = Path(__file__).with_name("study.html.jinja")
TITLES = {  # stages in the order of the page
    "train_recall": "Far information",
    "measure_recurrence": "Time by length, against recurrent nets",
    "measure_gradients": "Gradients",
    "measure_attention": "Kinds of attention",
    "train_long": "Kinds of attention on a long-range task",
    "measure_engine": "The engine’s options",
    "train_factor": "Recipes",
}


@dataclass(frozen=True)
class Params:
    title: str


@dataclass(frozen=True)
class Section:
    stage: str
    title: str
    figures: list[str]  # data URIs
    tables: list[Any]


def cost(_: Params) -> str:
    return "reads what the study's stages wrote: a second or two"


def run(params: Params, stage: Stage) -> None:
    from components.evaluation.verdicts import Finding
    from flows.stages.claims import attention, distance, engine, recipe
    from flows.stages.claims.rows import Rows, measured

    rows = Rows(stage.root / "reports", digest=stage.name == "digest")
    subjects = (distance, attention, engine, recipe)
    findings: list[Finding] = [finding for subject in subjects for finding in subject.findings(rows)]
    if not findings:
        raise StageError("no stage of the study has written rows: state some in params.yaml")
    tables = [table for subject in subjects for table in subject.tables(rows) if table.lines]
    drawn: dict[str, list[bytes]] = {}
    for subject in (distance, attention, recipe):
        for name, picture in subject.pictures(rows):
            drawn.setdefault(name, []).append(_png(picture))
    sections = [
        Section(
            name,
            title,
            [_data_uri(picture) for picture in drawn.get(name) or [path.read_bytes() for path in rows.figures(name)]],
            [table for table in tables if table.stage == name],
        )
        for name, title in TITLES.items()
        if rows.folders(name)
    ]
    write_atomically(stage.reports / f"{stage.name}.html", _render(params.title, findings, sections))
    listed = [dataclasses.asdict(finding) for finding in findings]
    write_atomically(stage.reports / "verdicts.json", json.dumps(listed, indent=1) + "\n")
    counts = Counter(finding.verdict for finding in findings)
    stage.write_metrics({verdict.replace(" ", "_"): count for verdict, count in counts.items()})
    for finding in findings:
        value = f"{measured(finding.interval.value)} {finding.unit}" if finding.interval else ""
        print(f"{finding.verdict:20} {finding.claim}: {value}")


def _render(title: str, findings: list[Any], sections: list[Section]) -> str:
    from flows.stages.claims.rows import measured

    filters = {"measured": measured, "name": lambda text: text.replace("_", " ")}
    verdicts = Counter(finding.verdict for finding in findings)
    counts = ", ".join(f"{verdict}: {count}" for verdict, count in verdicts.most_common())
    return render(TEMPLATE, filters, {"title": title, "findings": findings, "sections": sections, "counts": counts})


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def _data_uri(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


if __name__ == "__main__":
    start(__file__, Params, cost, run)
