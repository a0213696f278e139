"""The ledger against bytes counted by hand, and the estimate against what processes really took."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.decoders.loss import vocabulary_loss
from components.training import rehearsal
from components.training.ceiling import matmul_ceiling
from components.training.memory import Ledger
from components.training.rehearsal import estimate, rehearse
from components.training.weights import weights
from tests.components.training.toy import Batch, Regression, StackedRegression, batches, config

ROOT = Path(__file__).parents[3]


def test_the_ledger_counts_storages_while_they_live() -> None:
    """Of floats: 100 and 200 live together, views and in-place work add nothing, 50 come after the 200 are gone."""
    given = torch.ones(100)
    with Ledger() as ledger:
        first = given + 1
        second = torch.zeros(200)
        second[10:].add_(1)
        given.mul_(2)
        assert ledger.live == 1200
        del second
        third = first[:50].clone()
        assert ledger.live == 600
    assert ledger.peak == 1200
    del first, third
    assert ledger.live == 0


def test_flops_by_hand() -> None:
    """2 m n k a product: forward 8x4 by 4x8 and 8x8 by 8x1; backward the weights' and the second one's inputs'."""
    expected = 2 * (8 * 4 * 8 + 8 * 8) + 2 * (8 * 4 * 8 + 8 * 8 + 8 * 8)
    assert rehearse(Regression(), next(batches(8)(0)), config()).flops == expected


def test_attention_on_a_cpu_counts() -> None:
    """q k' and its product with v: twice 2 n^2 c for each of 2 heads."""
    q = torch.ones(1, 2, 16, 8)
    with Ledger() as ledger, torch.no_grad():
        nn.functional.scaled_dot_product_attention(q, q, q)
    assert ledger.flops == 2 * 2 * 2 * 16 * 16 * 8


def test_the_vocabularys_loss_counts_three_products() -> None:
    """Logits, and the gradients of hidden states and of the vocabulary's matrix: 2 t d v each, in chunks or not."""
    hidden, weight = torch.randn(6, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    with Ledger() as ledger:
        vocabulary_loss(hidden, weight, torch.arange(6)).backward()
    assert ledger.flops == 3 * 2 * 6 * 8 * 50


def test_the_parts_that_follow_from_the_weights() -> None:
    """StackedRegression has 8 * 4 + 8 in its stem, two blocks of 16 + 64 + 8, 9 in its head: 225 numbers."""
    batch = next(batches(8)(0))
    plain = estimate(StackedRegression(), batch, config())
    assert (plain.weights, plain.gradients, plain.optimiser) == (900, 900, 1800)
    rich = estimate(StackedRegression(), batch, config(optimiser="muon", ema=0.9, keep="best"))
    assert rich.optimiser == 1800 - 2 * 64 * 4 + 2 * 900


@pytest.mark.parametrize("limit", [0, 1e12], ids=["without data", "for real"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_rehearsal_changes_nothing(monkeypatch: pytest.MonkeyPatch, limit: float, precision: str) -> None:
    class Normed(StackedRegression):
        def make(self, dropout: float) -> nn.Module:
            return nn.Sequential(super().make(dropout), nn.BatchNorm1d(1))

    monkeypatch.setattr(rehearsal, "SMALL", limit)
    task = Normed()
    before = {name: value.clone() for name, value in weights(task.model).items()}
    rehearse(task, next(batches(8)(0)), config(precision=precision, accumulation=2))
    assert all(torch.equal(value, before[name]) for name, value in weights(task.model).items())
    assert all(parameter.grad is None for parameter in task.model.parameters())


def test_without_data_and_for_real_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for limit in (0, 1e12):
        monkeypatch.setattr(rehearsal, "SMALL", limit)
        found.append(rehearse(StackedRegression(dropout=0.1), next(batches(64)(0)), config()))
    assert found[0].flops == found[1].flops
    assert abs(found[0].memory.peak - found[1].memory.peak) < 0.02 * found[1].memory.peak


def test_a_task_that_looks_at_its_data_is_rehearsed_for_real(monkeypatch: pytest.MonkeyPatch) -> None:
    class Choosy(Regression):
        def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
            chosen = batch[1].flatten() > 0
            return (self.model(batch[0][chosen]) - batch[1][chosen]).square().mean(), {"share": float(chosen.sum())}

    monkeypatch.setattr(rehearsal, "SMALL", 0)
    assert rehearse(Choosy(), next(batches(64)(0)), config()).flops > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activations": "selective"},
        {"activations": "recompute"},
        {"accumulation": 2, "ema": 0.9},
        {"precision": "bf16"},
        {"precision": "bf16", "activations": "recompute"},
        {"optimiser": "muon"},
    ],
    ids=str,
)
def test_a_step_takes_what_was_expected(changes: dict[str, Any]) -> None:
    """The project's decoder, 92 MB of it, in processes whose allocator keeps nothing back."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("frugal.py")), json.dumps(changes)]
    found = json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert found["measured"] == pytest.approx(found["expected"], rel=0.15), found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_ceiling_is_what_a_product_reaches(dtype: torch.dtype) -> None:
    """More than a Python loop could, less than any core has."""
    assert 1e7 < matmul_ceiling(dtype, torch.device("cpu")) < 1e13
