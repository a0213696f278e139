"""Sparse and linear kinds skip work: FLOPs and memory of twice the length are twice as much, forward and backward."""

import pytest
import torch

from components.attention.config import Attention, BlockSparse, Linformer, Local, Performer, Softmax
from components.attention.multi_head import core
from components.training.memory import Ledger
from tests.components.attention.dense import inputs

LENGTH = 4096
KINDS = [
    (Local(window=128), False),
    (Local(window=128), True),
    (BlockSparse(), False),
    (BlockSparse(), True),
    (Linformer(rank=64), False),
    (Performer(features=64), False),
    (Performer(features=64), True),
]


def cost(kind: Attention, causal: bool, length: int) -> dict[str, int]:
    """FLOPs, and bytes at the peak."""
    *sources, cotangent = inputs(length, heads=2, groups=2, batch=1, features=16, dtype=torch.float32)
    mix = core(kind, causal=causal, context=2 * LENGTH, features=16, dropout=0.0)
    mix(*sources)  # the tiles of a length are planned once, and kept
    found = {}
    with Ledger() as ledger:
        out = mix(*sources)
    found |= {"forward": ledger.flops, "forward peak": ledger.peak}
    with ledger:
        out.backward(cotangent)
    return found | {"backward": ledger.flops - found["forward"], "both peak": ledger.peak}


@pytest.mark.parametrize(("kind", "causal"), KINDS, ids=lambda value: getattr(value, "kind", str(value)))
def test_costs_grow_with_length(kind: Attention, causal: bool) -> None:
    short, long = cost(kind, causal, LENGTH), cost(kind, causal, 2 * LENGTH)
    assert min(short.values()) > 0
    ratios = {name: long[name] / short[name] for name in short}
    assert max(ratios.values()) < 2.1, ratios


def test_softmax_compares_every_pair() -> None:
    """What the others are spared; flash attention keeps its memory linear all the same."""
    short, long = cost(Softmax(), False, LENGTH), cost(Softmax(), False, 2 * LENGTH)
    assert [long[name] / short[name] for name in ("forward", "backward")] == [4, 4]
