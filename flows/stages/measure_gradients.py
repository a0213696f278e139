"""Measures how gradients travel before any training: back along a text, and down through the blocks of a stack.

Rows in rows.json, told apart by `table`:
- distance: norm of the gradient of the last token's loss at the token so far before it, in a Transformer and in
  recurrent nets of equal parameters;
- depth: norm of the gradient at each block's input, in stacks with and without residual path and LayerNorm, all drawn
  so that a layer keeps the scale of what goes in.
Each is a mean over a batch of random texts, by seed. No times: equal runs, equal bytes.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval, MinLen

from components.decoders.config import Rival
from components.transformer.config import TransformerConfig
from flows.stages.equal import equal_sizes
from flows.stages.runtime import Stage, start, write_atomically

if TYPE_CHECKING:
    import torch

    from components.attention.view import View

BATCH = 16  # random texts
VARIANTS = {"both": (True, "layer"), "residual": (True, "none"), "norm": (False, "layer"), "neither": (False, "none")}


@dataclass(frozen=True)
class Params:
    group: Literal["core", "study"]
    models: list[Rival]
    transformer: TransformerConfig
    vocabulary: Annotated[int, Interval(ge=8, le=1_000_000)]
    length: Annotated[int, Interval(ge=16, le=65_536)]  # tokens
    depth: Annotated[int, Interval(ge=2, le=256)]  # blocks of the stacks compared by depth
    seeds: Annotated[list[int], MinLen(2)]
    threads: Annotated[int, Interval(ge=1)] = 1
    device: Literal["cpu", "cuda"] = "cpu"


def cost(params: Params) -> str:
    return f"{len(params.seeds) * (len(params.models) + len(VARIANTS))} backward passes, seconds"


def by_distance(params: Params, seed: int) -> Iterator[dict[str, Any]]:
    """At distances 1, 2, 4, ...: of the loss of the token after the last, by the embedding of an earlier one."""
    import torch
    import torch.nn.functional as F

    from components.decoders.rivals import rival

    sizes = equal_sizes(params.models, params.transformer, params.length, params.vocabulary)
    for kind in params.models:
        torch.manual_seed(seed)
        model = rival(kind, params.transformer, params.length, params.vocabulary).to(params.device)
        ids = torch.randint(params.vocabulary, (BATCH, params.length + 1), device=params.device)
        embedded: list[torch.Tensor] = []
        model.embedding.register_forward_hook(lambda _, __, out, seen=embedded: seen.append(out))
        loss = F.cross_entropy(model.logits(model.hidden(ids[:, :-1])[:, -1]), ids[:, -1])
        norms = torch.autograd.grad(loss, embedded[0])[0].norm(dim=-1).mean(0)
        for distance in (1 << power for power in range((params.length - 1).bit_length())):
            norm = norms[params.length - 1 - distance].item()
            row = {"table": "distance", "model": kind, "distance": distance, "seed": seed, "norm": norm}
            yield row | {"parameters": sizes[kind]}


def by_depth(params: Params, seed: int) -> Iterator[dict[str, Any]]:
    """Of the sum of the last tokens by each block's input. The last norm, which all but `neither` have, is left out."""
    import torch

    from components.attention.view import View
    from components.encoders.initialise import keep_scale
    from components.transformer.stack import Stack

    view = View()
    for name, (residual, norm) in VARIANTS.items():
        torch.manual_seed(seed)
        shape = replace(params.transformer, depth=params.depth, norm=norm, positions="none")
        # double: without norms the scores grow with the square of the tokens, and gradients past what single holds
        stack = Stack(shape, context=params.length, scale=1.0).to(params.device, torch.float64)
        keep_scale(stack)
        tokens = torch.randn(BATCH, 32, shape.width, device=params.device, dtype=torch.float64, requires_grad=True)
        inputs = [tokens]
        for block in stack.blocks:
            inputs.append(block(inputs[-1], view) if residual else unskipped(block, inputs[-1], view))
        norms = torch.autograd.grad((inputs[-1] * torch.randn_like(tokens)).sum(), inputs[:-1])
        for depth, gradient in enumerate(norms):
            yield {"table": "depth", "variant": name, "block": depth, "seed": seed, "norm": gradient.norm().item()}


def unskipped(block: Any, tokens: "torch.Tensor", view: "View") -> "torch.Tensor":
    """The two branches of a pre-norm block, one after the other, without the path beside them."""
    tokens = block.attention(block.attention_norm(tokens), view)
    return block.feed_forward(block.feed_forward_norm(tokens))


def run(params: Params, stage: Stage) -> None:
    from math import log10
    from statistics import geometric_mean

    from components.evaluation.plots import curves

    rows = [row for seed in params.seeds for each in (by_distance, by_depth) for row in each(params, seed)]
    write_atomically(stage.reports / "rows.json", json.dumps(rows, indent=1) + "\n")
    panels = {}
    for title, table, line, along in (
        ("gradient at a token, by its distance", "distance", "model", "distance"),
        ("gradient at a block's input, from the first", "depth", "variant", "block"),
    ):
        found: dict[str, dict[int, list[float]]] = {}
        for row in rows:
            if row["table"] == table:
                place = row[along] + (along == "block")
                found.setdefault(row[line], {}).setdefault(place, []).append(max(row["norm"], 1e-45))
        panels[title] = {
            name: [(place, geometric_mean(each)) for place, each in places.items()] for name, places in found.items()
        }
    curves(panels, "tokens, or blocks").savefig(stage.reports / "figure.png", dpi=110)
    first = panels["gradient at a block's input, from the first"]
    drifts = {name: log10(each[0][1] / each[-1][1]) for name, each in first.items()}
    stage.write_metrics({f"{name}_powers_of_ten": drift for name, drift in drifts.items()})


if __name__ == "__main__":
    start(__file__, Params, cost, run)
