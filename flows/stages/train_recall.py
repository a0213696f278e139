"""Trains a Transformer and recurrent nets of equal parameters to recall one token from a distance.

Costs a training of each model at each distance for each seed, all of the same steps. Writes to reports/train_recall/KEY
rows.json (accuracy on sequences that training has not drawn, one row a run), figure.png and metrics.json (means over
seeds). What keeps it fair: equal depth, parameters within 2%, the same sequences in the same order, and a learning rate
for each kind of model, chosen at a short distance on seeds that are not among `seeds`.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Gt, Interval, MinLen

from components.decoders.config import Rival
from components.training.config import FitConfig
from components.transformer.config import TransformerConfig
from flows.stages.equal import equal_sizes
from flows.stages.runtime import Stage, start, write_atomically

if TYPE_CHECKING:
    from torch import Tensor, nn

    from components.data.loader import Loader
    from components.data.recall import Recall
    from components.decoders.causal import CausalDecoder
    from components.decoders.recurrent import RecurrentDecoder
    from components.evaluation.bootstrap import Interval as Span


@dataclass(frozen=True)
class Params:
    group: Literal["core", "study"]
    models: Annotated[list[Rival], MinLen(1)]
    transformer: TransformerConfig  # the recurrent nets get as many layers and parameters
    distances: Annotated[list[Annotated[int, Interval(ge=1, le=1_048_576)]], MinLen(1)]  # tokens
    fit: FitConfig  # its seed is each of `seeds` in turn
    seeds: Annotated[list[Annotated[int, Interval(ge=0)]], MinLen(2)]
    values: Annotated[int, Interval(ge=2, le=10_000)]  # kinds of tokens to recall
    noise: Annotated[int, Interval(ge=1, le=10_000)]  # kinds of tokens in between
    held_out: Annotated[int, Interval(ge=1)]  # sequences that are judged
    learning_rates: dict[Rival, Annotated[float, Gt(0)]] = field(default_factory=dict)  # in place of the fit's
    threads: Annotated[int, Interval(ge=1)] = 1
    device: Literal["cpu", "cuda"] = "cpu"


def cost(params: Params) -> str:
    runs = len(params.models) * len(params.seeds)
    tokens = runs * sequences(params.fit) * sum(distance + 1 for distance in params.distances)
    return f"{runs * len(params.distances)} runs of {params.fit.steps:,} steps, {tokens:,} tokens in all, about 1 GiB"


class RecallValue:
    """Cross-entropy of the value among all tokens; accuracy on the held-out sequences.

    `read` gives logits [b, vocabulary] at the query for ids [b, n].
    """

    better: Literal["higher"] = "higher"

    def __init__(self, model: "nn.Module", read: "Callable[[Tensor], Tensor]", held_out: "Loader") -> None:
        self.model, self.read, self.held_out = model, read, held_out

    def loss(self, batch: "tuple[Tensor, Tensor]") -> "tuple[Tensor, dict[str, Any]]":
        import torch.nn.functional as F

        ids, values = batch
        return F.cross_entropy(self.read(ids).float(), values), {}

    def validate(self) -> dict[str, float]:
        from components.training.device import device_of, move

        right = 0
        for batch in self.held_out.in_order():
            ids, values = move(batch, device_of(self.model))
            right += int((self.read(ids).argmax(1) == values).sum())
        return {"accuracy": right / len(self.held_out.examples)}


def learn(
    model: "nn.Module",
    read: "Callable[[Tensor], Tensor]",
    data: "Recall",
    held_out: int,
    config: FitConfig,
    folder: Path,
) -> float:
    """Train on all of `data`, each sequence once; the accuracy on as many as `held_out` others."""
    from components.data.loader import Loader
    from components.data.recall import HELD_OUT, collate
    from components.training.fit import fit

    unseen = replace(data, count=held_out, part=HELD_OUT)
    task = RecallValue(model, read, Loader(unseen, collate, 32, config.seed))
    batches = Loader(data, collate, config.batch_size, config.seed, config.workers)
    return fit(task, batches, config, checkpoints=folder).figures["accuracy"]


def sequences(config: FitConfig) -> int:
    """That a run sees."""
    return config.steps * config.batch_size * config.accumulation


def runs(params: Params, stage: Stage) -> Iterator[dict[str, Any]]:
    """One row after the other."""
    import torch

    import components.training.fit  # noqa: F401  # the checkpoints' key is of the code that is loaded
    from components.data.recall import Recall
    from components.decoders.rivals import rival

    data = {d: Recall(sequences(params.fit), d + 1, d, params.values, params.noise, seed=0) for d in params.distances}
    sizes = {d: equal_sizes(params.models, params.transformer, d + 1, drawn.vocabulary) for d, drawn in data.items()}
    folder = stage.checkpoints([])
    for distance, seed, kind in product(params.distances, params.seeds, params.models):
        print(f"{kind} at {distance:,} tokens, seed {seed}: {sizes[distance][kind]:,} parameters")
        torch.manual_seed(seed)
        drawn = replace(data[distance], seed=seed)
        model = rival(kind, params.transformer, drawn.length, drawn.vocabulary).to(params.device)
        rate = params.learning_rates.get(kind, params.fit.learning_rate)
        config = replace(params.fit, seed=seed, learning_rate=rate)
        own = folder / f"{kind}-{distance}-{seed}"
        yield {
            "model": kind,
            "distance": distance,
            "seed": seed,
            "accuracy": learn(model, at_query(model), drawn, params.held_out, config, own),
            "chance": drawn.chance,
            "parameters": sizes[distance][kind],
            "steps": config.steps,
        }


def at_query(model: "CausalDecoder | RecurrentDecoder") -> "Callable[[Tensor], Tensor]":
    return lambda ids: model.logits(model.hidden(ids)[:, -1])


def run(params: Params, stage: Stage) -> None:
    from components.evaluation.plots import factors

    rows = list(runs(params, stage))
    write_atomically(stage.reports / "rows.json", json.dumps(rows, indent=1) + "\n")
    found = {
        distance: spans([row for row in rows if row["distance"] == distance], "model") for distance in params.distances
    }
    panels = {f"{distance:,} tokens back": panel for distance, panel in found.items()}
    figure = factors(panels, "recalled; dashed: chance", even=1 / params.values)
    figure.savefig(stage.reports / "figure.png", dpi=110)
    stage.write_metrics(
        {f"{model}_at_{distance}": span.value for distance, panel in found.items() for model, span in panel.items()}
    )


def spans(rows: list[dict[str, Any]], name: str) -> dict[str, "Span"]:
    """Accuracy over seeds, with its interval, for each value of the column `name`."""
    from components.evaluation.bootstrap import over_seeds

    values = dict.fromkeys(row[name] for row in rows)
    return {value: over_seeds([row["accuracy"] for row in rows if row[name] == value]) for value in values}


if __name__ == "__main__":
    start(__file__, Params, cost, run)
