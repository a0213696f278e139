"""New records beside a replay of old ones: data/mixed/KEY, a set that a source of its own takes in.

A source with `path: data/mixed/KEY` makes it shards and an index by the stages ingest and validate, so that training
reads it like any other. Copies every new record and the share `replay` of the old ones once; seconds for texts.
"""

import os
import shutil
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from flows.params import Reference
from flows.stages.runtime import Stage, StageError, start


@dataclass(frozen=True)
class Params:
    old: Annotated[str, Reference("sources")]
    new: Annotated[str, Reference("sources")]
    replay: Annotated[float, Interval(ge=0.0, le=1.0)] = 0.5  # share of the old train and valid records
    seed: Annotated[int, Interval(ge=0)] = 0  # which of them


def cost(params: Params) -> str:
    return f"copies {params.new} and {params.replay:.0%} of {params.old}: about 20,000 small records a second"


def run(params: Params, stage: Stage) -> None:
    from components.data.mixture import records
    from components.data.records import Records
    from components.data.shards import SPLITS, ShardWriter

    target = stage.root / "data" / "mixed" / stage.key
    partial = target.with_name(f".{stage.key}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    metrics: dict[str, float] = {"records": 0}
    for split in SPLITS:
        both = {
            source: Records(
                stage.root / "data" / "shards" / source / split, stage.root / "data" / "index" / source / split
            )
            for source in (params.old, params.new)
        }
        kinds = {each.kind for each in both.values()}
        if len(kinds) > 1:
            raise StageError(f"{params.old} and {params.new} hold {' and '.join(sorted(kinds))}: mix sets of one kind")
        writer = ShardWriter(partial / split, kinds == {"text"})
        for source, each in both.items():
            share = params.replay if source == params.old and split != "test" else 1.0
            before = writer.count
            classes = each.classes if len(each) and each.labels.max() >= 0 else []
            for record in records(source, each, each.kind, classes, share, params.seed):
                writer.write(record)
            metrics[f"{split}_{'old' if source == params.old else 'new'}"] = writer.count - before
        writer.close()
        metrics["records"] += writer.count
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    stage.write_metrics(metrics)
    print("  " + ", ".join(f"{name} {value}" for name, value in metrics.items()))


if __name__ == "__main__":
    start(__file__, Params, cost, run)
