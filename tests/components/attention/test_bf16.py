"""Attention in bf16 on a CPU against softmax in float64, through whatever chunks its backward pass takes."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from components.attention import bf16
from components.attention.bf16 import attend_bf16, serves
from components.attention.softmax import SoftmaxCore
from components.training.activations import run_block
from components.training.memory import Ledger
from tests.components.attention.dense import softmax

ROUNDED = 5 * 2.0**-9  # roundings to bf16 on the way: probability, change, their product, gradient, scale


def inputs(batch: int, heads: int, length: int, features: int, scale: float = 1.0) -> list[torch.Tensor]:
    """Queries, keys, values and a cotangent, laid out as the projections leave them."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(batch, length, heads, features, generator=generator) for _ in range(4)]
    made[0] *= scale
    return [each.bfloat16().transpose(1, 2).requires_grad_(which < 3) for which, each in enumerate(made)]


def errors(attend, given: list[torch.Tensor], causal: bool) -> list[float]:
    """Norms of the errors of the output and the three gradients, each over the norm itself."""
    *sources, cotangent = given
    length = cotangent.shape[2]
    allowed = torch.ones(1, length, length, dtype=torch.bool)
    exact = [each.detach().double().requires_grad_() for each in sources]
    expected = softmax(*exact, allowed.tril() if causal else allowed)
    out = attend(*sources)
    pairs = zip(
        [out, *torch.autograd.grad(out, sources, cotangent)],
        [expected, *torch.autograd.grad(expected, exact, cotangent.double())],
        strict=True,
    )
    return [float((found.double() - wanted).detach().norm() / wanted.detach().norm()) for found, wanted in pairs]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("chunk", [1, 1300, 2600, 3900, 1 << 20])  # less than a head, 2, 5 and 8 heads, all
def test_outputs_and_gradients_in_any_chunks(monkeypatch: pytest.MonkeyPatch, causal: bool, chunk: int) -> None:
    monkeypatch.setattr(bf16, "CHUNK", chunk)
    given = inputs(5, 3, 22, 16)
    assert max(errors(lambda *sources: attend_bf16(*sources, causal)[0], given, causal)) < ROUNDED


@pytest.mark.parametrize("features", [8, 24, 64])
def test_large_scores_cost_no_precision(features: int) -> None:
    """Scores of 8 in the mean and of 40 at most, which rounded themselves would be off by a sixteenth and more."""
    given = inputs(2, 4, 64, features, scale=8.0)
    found = errors(lambda *sources: attend_bf16(*sources, False)[0], given, False)
    kernel = errors(F.scaled_dot_product_attention, given, False)
    assert max(found) < ROUNDED
    assert all(own < 3 * theirs for own, theirs in zip(found, kernel, strict=True))


def test_features_may_lie_apart() -> None:
    """Where SDPA would leave the kernel, which reads a head's features side by side."""
    given = [
        each.detach().mT.contiguous().mT.requires_grad_(which < 3) for which, each in enumerate(inputs(2, 4, 64, 16))
    ]
    assert given[0].stride(-1) == 64
    assert max(errors(lambda *sources: attend_bf16(*sources, True)[0], given, True)) < ROUNDED


def test_torch_takes_it_for_a_sound_operation() -> None:
    given = [each.detach().requires_grad_(which < 3) for which, each in enumerate(inputs(2, 3, 20, 16))]
    torch.library.opcheck(attend_bf16, (*given[:3], True))


def test_the_core_takes_it_where_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, keys, values, _ = inputs(2, 4, 64, 16)
    assert serves(queries, keys, values)
    assert not serves(queries.float(), keys.float(), values.float())
    assert not serves(queries, keys, values.float())
    assert not serves(queries, keys[:, :2], values[:, :2])  # shared heads
    assert not serves(queries[:, :, :8], keys[:, :, :8], values[:, :, :8])
    assert not serves(*(each.repeat(1, 1, 9, 1) for each in (queries, keys, values)))
    with torch.no_grad():
        assert not serves(queries, keys, values)
    used = []
    monkeypatch.setattr("components.attention.softmax.attend_bf16", lambda *a: used.append(a) or attend_bf16(*a))
    SoftmaxCore(causal=True)(queries, keys, values)
    assert len(used) == 1
    mask = torch.ones(2, 64, dtype=torch.bool)
    SoftmaxCore(causal=True)(queries, keys, values, mask)
    SoftmaxCore(causal=True, dropout=0.1)(queries, keys, values)
    assert len(used) == 1
    SoftmaxCore(causal=True, dropout=0.1).eval()(queries, keys, values)
    assert len(used) == 2


def test_training_knows_what_it_costs() -> None:
    """Two products forward, five back (Dao et al. 2022, section 3.1): 2 n^2 c each, for each of 4 heads of 2 rows."""
    *sources, cotangent = inputs(2, 4, 64, 16)
    with Ledger() as ledger:
        SoftmaxCore(causal=False)(*sources).backward(cotangent)
    assert ledger.flops == 7 * 2 * 64 * 64 * 16 * 4 * 2


@pytest.mark.parametrize(("mode", "times"), [("keep", 1), ("selective", 1), ("recompute", 2)])
def test_selective_activations_keep_its_output(monkeypatch: pytest.MonkeyPatch, mode: Any, times: int) -> None:
    *sources, cotangent = inputs(2, 4, 64, 16)
    kernel, calls = bf16._flash, []
    monkeypatch.setattr(bf16, "_flash", lambda *given: calls.append(given) or kernel(*given))
    run_block(mode, SoftmaxCore(causal=True), *sources).backward(cotangent)
    assert len(calls) == times
