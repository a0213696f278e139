"""Trains an encoder with one kind of attention to recall a token from anywhere in a long text: what cheaper kinds lose.

Costs a training for each length and each seed. Writes to reports/train_long/KEY rows.json (accuracy on sequences that
training has not drawn, one row a run), figure.png and metrics.json (means over seeds). No kind is causal here, since
Linformer cannot be; the query that asks stands at the end and is the text's vector.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, Any, Literal

from annotated_types import Interval, MinLen

from components.encoders.text_config import TextConfig
from components.training.config import FitConfig
from components.transformer.config import TransformerConfig
from flows.stages.runtime import Stage, start, write_atomically
from flows.stages.train_recall import learn, sequences, spans


@dataclass(frozen=True)
class Params:
    group: Literal["core", "study"]
    transformer: TransformerConfig  # its attention is what is judged
    lengths: Annotated[list[Annotated[int, Interval(ge=2, le=1_048_576)]], MinLen(1)]  # tokens
    fit: FitConfig  # its seed is each of `seeds` in turn
    seeds: Annotated[list[Annotated[int, Interval(ge=0)]], MinLen(2)]
    values: Annotated[int, Interval(ge=2, le=10_000)]  # kinds of tokens to recall
    noise: Annotated[int, Interval(ge=1, le=10_000)]  # kinds of tokens in between
    held_out: Annotated[int, Interval(ge=1)]  # sequences that are judged
    threads: Annotated[int, Interval(ge=1)] = 1
    device: Literal["cpu", "cuda"] = "cpu"


def cost(params: Params) -> str:
    runs, tokens = len(params.seeds), len(params.seeds) * sequences(params.fit) * sum(params.lengths)
    return f"{runs * len(params.lengths)} runs of {params.fit.steps:,} steps, {tokens:,} tokens in all, about 1 GiB"


def runs(params: Params, stage: Stage) -> Iterator[dict[str, Any]]:
    """One row after the other."""
    import torch

    import components.training.fit  # noqa: F401  # the checkpoints' key is of the code that is loaded
    from components.data.recall import Recall
    from components.encoders.classifier import Classifier
    from components.encoders.text import TextEncoder

    kind, folder = params.transformer.attention.kind, None
    for length, seed in product(params.lengths, params.seeds):
        print(f"{kind} attention at {length:,} tokens, seed {seed}")
        data = Recall(sequences(params.fit), length, None, params.values, params.noise, seed)
        torch.manual_seed(seed)
        encoder = TextEncoder(TextConfig(params.transformer, context=length, pool="last"), data.vocabulary)
        model = Classifier(encoder, data.vocabulary).to(params.device)
        config = replace(params.fit, seed=seed)
        folder = folder or stage.checkpoints([])
        yield {
            "attention": kind,
            "length": length,
            "seed": seed,
            "accuracy": learn(model, model, data, params.held_out, config, folder / f"{length}-{seed}"),
            "chance": data.chance,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "steps": config.steps,
        }


def run(params: Params, stage: Stage) -> None:
    from components.evaluation.plots import factors

    rows = list(runs(params, stage))
    write_atomically(stage.reports / "rows.json", json.dumps(rows, indent=1) + "\n")
    found = spans([{**row, "length": f"{row['length']} tokens"} for row in rows], "length")
    figure = factors({rows[0]["attention"]: found}, "recalled; dashed: chance", even=1 / params.values)
    figure.savefig(stage.reports / "figure.png", dpi=110)
    stage.write_metrics({f"at_{length.removesuffix(' tokens')}": span.value for length, span in found.items()})


if __name__ == "__main__":
    start(__file__, Params, cost, run)
