"""Do new data come from the population that a model was trained on? reports/drift/KEY: metrics, rows, and a picture.

Compares the train splits of two sources: what the records hold, their labels, and what the served model's encoder makes
of them (components/evaluation/drift.py says by which tests). A drift is news and no failure. Costs a pass of the
encoder over up to `most` records a side, and a second or two of tests.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval

from flows.params import Reference
from flows.stages.runtime import Stage, StageError, start, write_atomically

if TYPE_CHECKING:
    from components.evaluation.drift import Shift, Told

EMBEDDING = "embedding"


@dataclass(frozen=True)
class Params:
    reference: Annotated[str, Reference("sources")]  # what the model was trained on
    new: Annotated[str, Reference("sources")]
    model: str  # folder of the served model, whose encoder looks at both
    alpha: Annotated[float, Interval(gt=0.0, lt=1.0)] = 0.01  # chance of a drift where there is none, over all features
    effect: Annotated[float, Interval(gt=0.0, lt=1.0)] = 0.1  # from which a difference matters (drift.py says of what)
    most: Annotated[int, Interval(ge=20)] = 1000  # records of each side
    permutations: Annotated[int, Interval(ge=99)] = 1999  # enough for 20 features at this alpha
    seed: Annotated[int, Interval(ge=0)] = 0  # of the choice, and of the permutations
    threads: Annotated[int, Interval(ge=1)] = 1
    device: Literal["cpu", "cuda"] = "cpu"


def cost(params: Params) -> str:
    return f"{params.model} reads up to {params.most} records of {params.reference} and of {params.new}; about 1 GiB"


def run(params: Params, stage: Stage) -> None:
    from components.evaluation import drift, drift_records

    (kind, before, classes_before), (other, after, classes_after) = (
        _chosen(stage.root, source, params) for source in (params.reference, params.new)
    )
    if kind != other:
        raise StageError(f"{params.reference} holds {kind}, {params.new} {other}: compare sets of one kind")
    sides: dict[str, tuple[Any, Any]] = drift_records.pieces(kind, before, after)
    try:
        shifts = [drift.numbers(name, *values) for name, values in sides.items()]
        if classes_before and classes_after:
            sides["label"] = _labels(before, classes_before), _labels(after, classes_after)
            shifts.append(drift.classes("label", *sides["label"]))
        if told := _embeddings(params, before, after):
            sides[EMBEDDING] = told.reference, told.new
            shifts.append(told.shift)
            if params.alpha * (1 + params.permutations) < len(shifts):  # the least p-value that there can be
                least = round(len(shifts) / params.alpha)
                raise ValueError(
                    f"{params.permutations} permutations show no drift at alpha {params.alpha}: give {least}"
                )
    except ValueError as error:
        raise StageError(str(error)) from error
    judged = drift.judge(shifts, params.alpha, params.effect)
    report(stage, sorted(judged, key=lambda shift: (not shift.drifted, -shift.effect)), sides, before, after)


def _embeddings(params: Params, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> "Told | None":
    """How the model's encoder tells both sides apart; None for a decoder, which has none."""
    import torch

    from components.evaluation import drift
    from flows.stages.judges.models import embed, plain

    said, model = plain(Path(params.model), torch.device(params.device))
    if said.kind == "decoder":
        return None
    vectors = [embed(said, model, side).numpy() for side in (before, after)]
    return drift.embeddings(EMBEDDING, vectors[0], vectors[1], params.permutations, params.seed)


def report(
    stage: Stage,
    found: "list[Shift]",
    sides: dict[str, tuple[Any, Any]],
    before: list[dict[str, Any]],
    after: list[dict[str, Any]],
) -> None:
    """Picture, rows and metrics; what has drifted stands first."""
    from components.evaluation.drift_picture import picture

    picture(found, sides).savefig(stage.reports / "figure.png", dpi=110, metadata={"Software": None})
    rows = json.dumps([asdict(shift) for shift in found], indent=1, ensure_ascii=False) + "\n"
    write_atomically(stage.reports / "rows.json", rows)
    stage.write_metrics(
        {
            "drifted": sum(shift.drifted for shift in found),
            "largest_effect": max((shift.effect for shift in found if shift.drifted), default=0.0),
            "reference_records": len(before),
            "new_records": len(after),
        }
        | {f"effect of {shift.feature}": shift.effect for shift in found}
    )
    for shift in found:
        print(
            f"{stage}: {shift.feature:28} {'DRIFTED' if shift.drifted else 'no drift':8} effect {shift.effect:.3f} "
            f"p {shift.corrected:.2g} ({shift.test}): {shift.moved}"
        )


def _chosen(root: Path, source: str, params: Params) -> tuple[Any, list[dict[str, Any]], list[str]]:
    """Kind, up to `most` train records in random order, and the classes (none where records have no labels)."""
    import numpy as np

    from components.data.records import Records

    split = Records(root / "data" / "shards" / source / "train", root / "data" / "index" / source / "train")
    order = np.random.default_rng(params.seed).permutation(len(split))[: params.most]
    return split.kind, [split[int(i)] for i in order], split.classes if split.labels.min() >= 0 else []


def _labels(records: list[dict[str, Any]], classes: list[str]) -> list[str]:
    return [classes[record["label"]] for record in records]


if __name__ == "__main__":
    start(__file__, Params, cost, run)
