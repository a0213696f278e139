"""Measures what kinds of attention cost by length: time and peak memory, forward and backward, and where each one pays.

Three tables of rows in rows.json, told apart by `table`:
- length: each kind at each length, without projections: seconds of a pass, and its memory above the inputs;
- width: softmax attention at one length by the number of heads, of equal size: cost by d;
- heads: multi-head attention with its projections at one width, by the number of heads that share it.
Every kind is timed once a round, so that ratios pair what ran in the same minute; its peak of memory is one figure,
which does not vary. Each row says where. Runs alone on its machine.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Interval, MinLen

from components.attention.config import BlockSparse, Linformer, Local, Performer, Softmax
from flows.stages.runtime import Stage, start, write_atomically

if TYPE_CHECKING:
    import torch

SHORT = 0.3  # seconds
KINDS = (Softmax, Local, BlockSparse, Linformer, Performer)


@dataclass(frozen=True)
class Params:
    group: Literal["core", "study"]
    lengths: Annotated[list[Annotated[int, Interval(ge=16, le=1_048_576)]], MinLen(2)]  # tokens: two give a slope
    explicit: Annotated[int, Ge(0)]  # longest at which the whole matrix of weights is held
    rounds: Annotated[int, Ge(2)]  # times each is measured
    kinds: list[Literal["softmax", "local", "block_sparse", "linformer", "performer"]]
    heads: Annotated[int, Ge(1)] = 4
    features: Annotated[int, Ge(1)] = 64  # of a head
    width_at: Annotated[int, Ge(16)] = 1024  # tokens of the tables `width` and `heads`
    threads: Annotated[int, Interval(ge=1)] = 1
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        if "softmax" not in self.kinds:
            raise ValueError(f"kinds {', '.join(self.kinds) or '(none)'}: add softmax, to which others are compared")


def cost(params: Params) -> str:
    return (
        f"{len(params.kinds) + 1} kinds of attention at {', '.join(map(str, params.lengths))} tokens, "
        f"{params.rounds} rounds; the machine to itself"
    )


def explicit(queries: "torch.Tensor", keys: "torch.Tensor", values: "torch.Tensor") -> "torch.Tensor":
    """softmax(Q K^T / sqrt(c)) V with the whole matrix, as the formula is written."""
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
    return scores.softmax(-1) @ values


def passes(params: Params, length: int) -> dict[str, Callable[[], None]]:
    """A forward and backward pass of each kind at one length, on the same inputs."""
    import torch

    from components.attention.multi_head import core

    shape = 1, params.heads, length, params.features
    inputs = [torch.randn(shape, device=params.device, requires_grad=True) for _ in range(3)]
    cotangent = torch.randn(shape, device=params.device)
    chosen = {kind().kind: kind() for kind in KINDS}
    made: dict[str, Callable[..., torch.Tensor]] = {
        name: core(chosen[name], causal=False, context=length, features=params.features, dropout=0.0).to(params.device)
        for name in params.kinds
    }
    if length <= params.explicit:
        made["explicit"] = explicit

    def one(attend: Callable[..., torch.Tensor]) -> Callable[[], None]:
        return lambda: torch.autograd.backward(attend(*inputs), cotangent)

    return {name: one(attend) for name, attend in made.items()}


def peak(params: Params, kind: str, length: int) -> int:
    """Bytes of one pass above its inputs, in a process that has held nothing else."""
    from components.evaluation.apart import Apart
    from components.evaluation.measure import peak_memory

    def make() -> Callable[[], int]:
        passes(params, min(128, length))[kind]()  # what libraries set up for themselves is not the pass's
        run = passes(params, length)[kind]
        return lambda: peak_memory(run)

    with Apart(make) as there:
        return there()


def timed(run: Callable[[], None]) -> float:
    """Seconds of a pass: the least of as many as fill a short while."""
    from components.evaluation.measure import seconds

    return seconds(run, max(1, min(10, int(SHORT / seconds(run, 1)))))


def by_length(params: Params) -> Iterator[dict[str, Any]]:
    import torch

    kinds = {length: [*params.kinds, *["explicit"] * (length <= params.explicit)] for length in params.lengths}
    # all before torch computes here: the threads of its pool would not survive the fork
    peaks = {(kind, length): peak(params, kind, length) for length, each in kinds.items() for kind in each}
    for length in params.lengths:
        torch.manual_seed(0)
        made = passes(params, length)
        for number in range(params.rounds):
            for kind, run in made.items():
                yield {
                    "table": "length",
                    "attention": kind,
                    "length": length,
                    "round": number,
                    "seconds": timed(run),
                    "peak_bytes": peaks[kind, length],
                }
        print(f"{length:,} tokens: {', '.join(made)}", flush=True)


def by_width(params: Params) -> Iterator[dict[str, Any]]:
    """Softmax attention by its number of heads, each of the same size."""
    made = {
        heads: passes(replace(params, heads=heads, kinds=["softmax"], explicit=0), params.width_at)["softmax"]
        for heads in (1, 2, 4, 8)
    }
    for number in range(params.rounds):
        for heads, run in made.items():
            width = heads * params.features
            yield {"table": "width", "attention": "softmax", "width": width, "round": number, "seconds": timed(run)}


def by_heads(params: Params) -> Iterator[dict[str, Any]]:
    """Multi-head attention, projections and all, by the number of heads of one width."""
    import torch

    from components.attention.multi_head import MultiHeadAttention
    from components.attention.softmax import SoftmaxCore
    from components.attention.view import View

    width = params.heads * params.features
    tokens = torch.randn(1, params.width_at, width, device=params.device, requires_grad=True)
    cotangent = torch.randn_like(tokens)

    def one(heads: int) -> Callable[[], None]:
        attention = MultiHeadAttention(width, heads, SoftmaxCore(causal=False)).to(params.device)
        return lambda: torch.autograd.backward(attention(tokens, View()), cotangent)

    made = {heads: one(heads) for heads in (1, 2, 4, 8) if width % heads == 0}
    for number in range(params.rounds):
        for heads, run in made.items():
            yield {"table": "heads", "attention": "softmax", "heads": heads, "round": number, "seconds": timed(run)}


def medians(rows: list[dict[str, Any]], name: str, scale: float) -> dict[str, list[tuple[float, float]]]:
    """Kind -> (length, median over the rounds) in order of length."""
    from statistics import median

    series: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row["table"] == "length":
            series.setdefault(row["attention"], {}).setdefault(row["length"], []).append(scale * row[name])
    return {kind: [(length, median(each)) for length, each in lengths.items()] for kind, lengths in series.items()}


def run(params: Params, stage: Stage) -> None:
    from components.evaluation.measure import machine
    from components.evaluation.plots import curves

    measured = [*by_length(params), *by_width(params), *by_heads(params)]
    where = machine(params.device)  # last: whoever asks for a GPU's name cannot fork any more
    rows = [row | where for row in measured]
    write_atomically(stage.reports / "rows.json", json.dumps(rows, indent=1) + "\n")
    panels = {
        "milliseconds, forward and backward": medians(rows, "seconds", 1e3),
        "peak memory above the inputs, MiB": medians(rows, "peak_bytes", 2**-20),
    }
    curves(panels, "tokens").savefig(stage.reports / "figure.png", dpi=110)
    longest = {kind: points[-1] for kind, points in medians(rows, "seconds", 1e3).items()}
    stage.write_metrics({f"{kind}_ms_at_{length}": value for kind, (length, value) in longest.items()})


if __name__ == "__main__":
    start(__file__, Params, cost, run)
