"""Decodes every record of a source: an index of the good ones (data/index/KEY), the bad ones in quarantine.jsonl.

Fails when more than the share `tolerate` is bad. 20,000 small pictures take about 10 s of one core.
"""

import json
import os
import shutil
from collections import Counter
from typing import TYPE_CHECKING

from components.data.config import Source as Params
from flows.stages.runtime import Stage, StageError, start, write_atomically

if TYPE_CHECKING:
    from components.data.validation import Findings


def cost(params: Params) -> str:
    return f"decodes every record of {params.path} once: about 3,000 small ones a second, 1 GiB at most"


def run(params: Params, stage: Stage) -> None:
    from components.data.validation import validate

    shards, index = (stage.root / "data" / room / stage.key for room in ("shards", "index"))
    partial = index.with_name(f".{stage.key}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    about = json.loads((shards / "about.json").read_text())
    findings = validate(shards, partial, params.kind, tuple(about["classes"]))
    lines = [json.dumps(bad, ensure_ascii=False) + "\n" for bad in findings.quarantine]
    write_atomically(stage.reports / "quarantine.jsonl", "".join(lines))
    if problem := _refusal(params, stage, findings):
        shutil.rmtree(partial)
        raise StageError(problem)
    shutil.rmtree(index, ignore_errors=True)
    os.replace(partial, index)
    metrics = {
        "records": sum(findings.counts.values()),
        **findings.counts,
        "bad": len(findings.quarantine),
        "filtered": about["filtered"],
        "repeated": findings.repeated,
        "classes": len(findings.classes),
        "bytes": findings.bytes,
    }
    stage.write_metrics(metrics)
    print("  " + ", ".join(f"{name} {value}" for name, value in metrics.items()))


def _refusal(params: Params, stage: Stage, findings: "Findings") -> str | None:
    bad = Counter(entry["reason"] for entry in findings.quarantine)
    reasons = "; ".join(f"{reason} ({count})" for reason, count in bad.most_common(3))
    where = f"see {stage.reports / 'quarantine.jsonl'}"
    if findings.bad_share > params.tolerate:
        share = f"{findings.bad_share:.2%} ({len(findings.quarantine)} records) are bad, over {params.tolerate:.2%}"
        return f"source {stage.key}: {share}: {reasons}: {where}"
    wanted = {"train", *params.splits, *params.held_out} | ({"valid", "test"} if params.world else set())
    if empty := [split for split, count in findings.counts.items() if count == 0 and split in wanted]:
        return f"source {stage.key}: no good record in {', '.join(empty)}: correct splits, filter or held_out" + (
            f"; {reasons}: {where}" if reasons else ""
        )
    return None


if __name__ == "__main__":
    start(__file__, Params, cost, run, "sources")
