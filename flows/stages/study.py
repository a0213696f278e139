"""The study's page: every claim about Transformers with what was measured, its interval and a verdict. A second.

reports/study/study.html holds all plots and tables; verdicts.json the table of verdicts for tools. The figures are the
stages' own (rows.json); what each claim asks of them stands in flows/stages/claims/. A claim whose rows are missing is
listed as not measured. `digest` makes the same page of the small selection that the demo measures, and lists no others.
"""

import base64
import dataclasses
import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.evaluation.pages import render
from flows.stages.runtime import Stage, StageError, start, write_atomically

if TYPE_CHECKING:
    from components.evaluation.verdicts import Finding
    from flows.stages.claims.rows import Rows

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
    from flows.stages.claims import attention, distance, engine, recipe
    from flows.stages.claims.rows import Rows, measured

    rows = Rows(stage.root / "reports", digest=stage.name == "digest")
    subjects = (distance, attention, engine, recipe)
    findings = [finding for subject in subjects for finding in judged(subject, rows)]
    if all(finding.verdict == "not measured" for finding in findings):
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
    machines = {name: rows.machine(name) for name in TITLES}
    write_atomically(stage.reports / f"{stage.name}.html", _render(params.title, findings, sections, machines))
    listed = [dataclasses.asdict(finding) | {"machine": machines[finding.stage]} for finding in findings]
    write_atomically(stage.reports / "verdicts.json", json.dumps(listed, indent=1) + "\n")
    counts = Counter(finding.verdict for finding in findings)
    stage.write_metrics({verdict.replace(" ", "_"): count for verdict, count in counts.items()})
    for finding in findings:
        value = f"{measured(finding.interval.value)} {finding.unit}" if finding.interval else ""
        print(f"{finding.verdict:20} {finding.claim}: {value}")


def judged(subject: Any, rows: "Rows") -> "list[Finding]":
    """A module of claims: each with its verdict. The digest is a selection, and says nothing of the others."""
    from components.evaluation.verdicts import Finding

    findings = list(subject.findings(rows))
    found = {finding.claim for finding in findings}
    missing = () if rows.digest else [(claim, stage) for claim, stage in subject.CLAIMS.items() if claim not in found]
    figure = "nothing: params.yaml states no run that shows it"
    return findings + [Finding(claim, figure, "", None, "not measured", stage) for claim, stage in missing]


def _render(title: str, findings: list[Any], sections: list[Section], machines: dict[str, str]) -> str:
    from flows.stages.claims.rows import measured

    filters = {"measured": measured, "name": lambda text: text.replace("_", " ")}
    verdicts = Counter(finding.verdict for finding in findings)
    counts = ", ".join(f"{verdict}: {count}" for verdict, count in verdicts.most_common())
    where = "; ".join(dict.fromkeys(filter(None, machines.values())))
    values = {"title": title, "findings": findings, "sections": sections, "counts": counts, "machine": where}
    return render(TEMPLATE, filters, values)


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def _data_uri(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


if __name__ == "__main__":
    start(__file__, Params, cost, run)
