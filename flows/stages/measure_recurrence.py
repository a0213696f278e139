"""Measures a training pass of a Transformer, an LSTM and a GRU of equal parameters by the length of the text.

Rows in rows.json: seconds of a forward and backward pass, round by round, and where. Runs alone on its machine.
"""

import json
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval, MinLen

from components.decoders.config import Rival
from components.transformer.config import TransformerConfig
from flows.stages.equal import equal_sizes
from flows.stages.runtime import Stage, start, write_atomically

REPEAT = 2  # passes of a round; the faster counts


@dataclass(frozen=True)
class Params:
    group: Literal["core", "study"]
    models: Annotated[list[Rival], MinLen(1)]
    transformer: TransformerConfig  # the recurrent nets get as many layers and parameters
    vocabulary: Annotated[int, Interval(ge=8, le=1_000_000)]
    lengths: Annotated[list[Annotated[int, Interval(ge=16, le=1_048_576)]], MinLen(2)]  # tokens: two give a slope
    batch_size: Annotated[int, Ge(1)]
    rounds: Annotated[int, Ge(2)]
    threads: Annotated[int, Interval(ge=1)] = 1
    device: Literal["cpu", "cuda"] = "cpu"


def cost(params: Params) -> str:
    lengths = ", ".join(map(str, params.lengths))
    return f"{' and '.join(params.models)} at {lengths} tokens, {params.rounds} rounds; the machine to itself"


def run(params: Params, stage: Stage) -> None:
    import torch

    from components.decoders.rivals import rival
    from components.evaluation.measure import machine, seconds
    from components.evaluation.plots import curves

    made = params.transformer, max(params.lengths), params.vocabulary
    sizes = equal_sizes(params.models, *made)
    torch.manual_seed(0)
    models = {kind: rival(kind, *made).to(params.device) for kind in params.models}
    rows: list[dict[str, Any]] = []
    for length in params.lengths:
        ids = torch.randint(params.vocabulary, (params.batch_size, length + 1), device=params.device)
        for number in range(params.rounds):
            for kind, model in models.items():
                taken = seconds(lambda model=model, ids=ids: model.loss(ids[:, :-1], ids[:, 1:]).backward(), REPEAT)
                rows.append({"model": kind, "length": length, "round": number, "seconds": taken})
        print(f"{length:,} tokens", flush=True)
    where = machine(params.device)
    rows = [row | {"parameters": sizes[row["model"]]} | where for row in rows]
    write_atomically(stage.reports / "rows.json", json.dumps(rows, indent=1) + "\n")
    series = {
        kind: [
            (length, median(1e3 * row["seconds"] for row in rows if (row["model"], row["length"]) == (kind, length)))
            for length in params.lengths
        ]
        for kind in params.models
    }
    curves({"milliseconds a training pass": series}, "tokens").savefig(stage.reports / "figure.png", dpi=110)
    stage.write_metrics({f"{kind}_ms_at_{params.lengths[-1]}": points[-1][1] for kind, points in series.items()})


if __name__ == "__main__":
    start(__file__, Params, cost, run)
