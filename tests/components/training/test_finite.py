"""Losses, gradients and validations that are not finite: where they began by the report, and what stays on the disk."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.training.fit import fit
from tests.components.training.toy import Batch, Regression, batches, config


def run(task: Regression, **changes) -> None:
    fit(task, batches(4), config(**changes), checkpoints=None)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_named_with_its_step(value: float) -> None:
    class Broken(Regression):
        calls = 0

        def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
            self.calls += 1
            loss, figures = super().loss(batch)
            return (loss * value if self.calls == 2 * 7 else loss), figures

    with pytest.raises(FloatingPointError, match=rf"^step 7: loss is {value}.*learning_rate \(0.01\)"):
        run(Broken(), accumulation=2, log_every=10)


def test_a_gradient_that_is_not_finite_is_found_before_it_is_saved(tmp_path: Path) -> None:
    tenth = next(batches(4)(9))[0]

    class Steep(Regression):
        def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
            loss, figures = super().loss(batch)
            if torch.equal(batch[0], tenth):
                loss = (
                    loss + self.model(torch.zeros(1, 4)).sub(self.model(torch.zeros(1, 4))).sum().sqrt()
                )  # 0, infinitely steep
            return loss, figures

    with pytest.raises(FloatingPointError, match=r"^step 10: gradient_norm is"):
        fit(Steep(), batches(4), config(log_every=50), checkpoints=tmp_path)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-000000005"]


def test_a_validation_that_is_not_finite_stops_the_run() -> None:
    class Blind(Regression):
        def validate(self) -> dict[str, float]:
            return {"loss": math.nan}

    with pytest.raises(FloatingPointError, match="^step 6: validation loss is nan"):
        run(Blind())


class Poisoned:
    """Batches of four, one of them with a NaN in it; examples have names."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, start: int) -> Iterator[Batch]:
        for number, (inputs, targets) in enumerate(batches(4)(start), start):
            yield (inputs * math.nan if number == self.number else inputs), targets

    def names(self, number: int) -> list[str]:
        return [f"clip_{number * 4 + place}" for place in range(4)]


@pytest.mark.parametrize(("log_every", "number"), [(1, 7), (3, 7), (20, 8), (7, 0)])
def test_the_batch_that_caused_it_is_named(log_every: int, number: int) -> None:
    """Whatever is logged when, and although every later loss and gradient is NaN as well."""
    names = ", ".join(f"clip_{number * 4 + place}" for place in range(4))
    step, part = number // 3 + 1, number % 3 + 1
    with pytest.raises(
        FloatingPointError, match=rf"^step {step}: loss is nan in micro-batch {part} of 3 \(examples {names}\); "
    ):
        fit(Regression(), Poisoned(number), config(accumulation=3, log_every=log_every), checkpoints=None)


class Steep(Regression):
    """Infinitely steep where a batch is told to be."""

    def __init__(self, batch: Tensor) -> None:
        super().__init__()
        self.batch = batch

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
        loss, figures = super().loss(batch)
        if torch.equal(batch[0], self.batch):
            output = self.model(batch[0])
            loss = loss + (output - output.detach()).sum().sqrt()  # 0, infinitely steep
        return loss, figures


def test_a_gradient_is_named_before_the_losses_that_follow_from_it() -> None:
    with pytest.raises(FloatingPointError, match=r"^step 4: gradient_norm is nan; "):
        run(Steep(next(batches(4)(3))[0]), log_every=20)


def test_a_gradient_names_the_examples_of_its_step() -> None:
    """With accumulation, of all its micro-batches: which one it came from is not known any more."""
    task = Steep(next(batches(4)(3))[0])
    with pytest.raises(FloatingPointError, match=r"^step 4: gradient_norm is nan \(examples clip_12, .*, clip_15\); "):
        fit(task, Poisoned(-1), config(log_every=20), checkpoints=None)
    task = Steep(next(batches(4)(3))[0])
    with pytest.raises(FloatingPointError, match=r"^step 2: .* nan \(examples clip_8, clip_9, .*, clip_15\); "):
        fit(task, Poisoned(-1), config(accumulation=2, log_every=20), checkpoints=None)


def test_a_long_list_of_examples_is_cut_short() -> None:
    class Many(Poisoned):
        def names(self, number: int) -> list[str]:
            return [str(place) for place in range(64)]

    with pytest.raises(FloatingPointError, match=r"\(examples 0, 1, 2, 3, 4, 5, 6, 7 and 56 more\)"):
        fit(Regression(), Many(2), config(), checkpoints=None)


def test_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"^step 13: loss is nan"):
        fit(Regression(), Poisoned(12), config(log_every=20), checkpoints=tmp_path)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000000005", "step-000000010"]
    history = fit(Regression(), batches(4), config(log_every=20), checkpoints=tmp_path)  # the data mended
    assert history.rows == fit(Regression(), batches(4), config(log_every=20), checkpoints=None).rows
