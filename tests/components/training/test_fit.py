"""`fit` against a loop in plain torch, against itself with other settings, and where training goes wrong."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.training.fit import fit
from components.training.weights import weights
from tests.components.training.toy import Batch, Regression, batches, config, equal


def run(task: Regression, size: int = 4, **changes) -> Any:
    return fit(task, batches(size), config(**changes), checkpoints=None)


def test_equals_a_plain_loop() -> None:
    """20 steps with clipping, decay, warm-up of 3 steps and a cosine to 0.1: the same bits."""
    ours, plain = Regression(), Regression()
    history = run(ours, clip=0.5, weight_decay=0.2, final_share=0.1)

    matrices = [p for p in plain.model.parameters() if p.ndim == 2]
    vectors = [p for p in plain.model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.2}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
    stream, losses = batches(4)(0), []
    for step in range(20):
        cosine = 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 3) / 17)) / 2
        for group in optimiser.param_groups:
            group["lr"] = 0.01 * ((step + 1) / 4 if step < 3 else cosine)
        loss, _ = plain.loss(next(stream))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*matrices, *vectors], 0.5)
        optimiser.step()
        losses.append(loss.item())

    assert equal(ours.model, plain.model)
    points = [row for row in history.rows if "loss" in row]
    assert [row["step"] for row in points] == [3, 6, 9, 12, 15, 18, 20]
    assert points[1]["loss"] == pytest.approx(sum(losses[3:6]) / 3, rel=1e-12)
    assert points[-1]["loss"] == pytest.approx(sum(losses[18:]) / 2, rel=1e-12)
    assert points[-1]["learning_rate"] == optimiser.param_groups[0]["lr"]
    assert history.figures == plain.validate() and history.step == 20


def test_accumulation_equals_the_large_batch() -> None:
    whole, parts = Regression(), Regression()
    run(whole, size=8, batch_size=8)
    run(parts, size=2, batch_size=2, accumulation=4)
    for name, value in weights(whole.model).items():
        torch.testing.assert_close(weights(parts.model)[name], value, rtol=1e-4, atol=1e-6)


def test_accumulation_is_exact_where_floats_are() -> None:
    """Gradients that are small powers of two add without rounding, in any order."""

    class Exact(Regression):
        def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
            return (self.model[3](torch.sign(batch[0]).repeat(1, 2)) / 2).mean(), {}

    whole, parts = Exact(), Exact()
    run(whole, size=8)
    run(parts, size=2, accumulation=4)
    assert equal(whole.model, parts.model)


def test_logging_validating_and_other_users_of_the_generator_change_no_bit() -> None:
    class Noisy(Regression):
        def validate(self) -> dict[str, float]:
            torch.rand(3)
            return super().validate()

    def disturbed(start: int) -> Iterator[Batch]:
        for batch in batches(4)(start):
            torch.rand(5)
            yield batch

    calm, noisy = Regression(dropout=0.5), Noisy(dropout=0.5)
    run(calm)
    fit(noisy, disturbed, config(log_every=1, validate_every=1), checkpoints=None)
    assert equal(calm.model, noisy.model)
    other = Regression(dropout=0.5)
    run(other, seed=2)
    assert not equal(calm.model, other.model)


@pytest.mark.parametrize(("better", "step"), [("lower", 12), ("higher", 6)])
def test_the_best_weights_are_kept_the_earliest_of_equals(better: str, step: int) -> None:
    class Scripted(Regression):
        def __init__(self) -> None:
            super().__init__()
            self.better = better
            self.scores = iter([3.0, 1.0, 1.0, 2.0])  # after steps 6, 12, 18, 20
            self.seen: dict[float, dict[str, Tensor]] = {}

        def validate(self) -> dict[str, float]:
            kept = {name: value.clone() for name, value in weights(self.model).items()}
            self.seen[6.0 * (len(self.seen) + 1)] = kept
            return {"score": next(self.scores), "other": 0.5}

    task = Scripted()
    history = run(task, keep="best")
    assert history.step == step
    assert history.figures == {"score": 1.0 if better == "lower" else 3.0, "other": 0.5}
    assert all(torch.equal(value, task.seen[step][name]) for name, value in weights(task.model).items())
    assert not task.model.training


def test_the_curves_hold_the_validations() -> None:
    rows = [row for row in run(Regression()).rows if "valid_loss" in row]
    assert [row["step"] for row in rows] == [6, 12, 18, 20]
    assert set(rows[0]) == {"step", "valid_loss"}


def test_bf16_trains_fp32_weights() -> None:
    kinds = set()

    class Watched(Regression):
        def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
            kinds.add(self.model(batch[0]).dtype)
            return super().loss(batch)

    task = Watched()
    first = Regression().validate()["loss"]
    assert run(task, precision="bf16", steps=60, learning_rate=0.05).figures["loss"] < first / 2
    assert kinds == {torch.bfloat16}
    assert {value.dtype for value in weights(task.model).values()} == {torch.float32}


def test_warmup_must_be_shorter_than_the_run() -> None:
    with pytest.raises(ValueError, match="warmup 20 must be below steps 20"):
        dataclasses.replace(config(), warmup=20)
