"""Accumulated micro-batches that weigh differently against one large batch."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from components.training.fit import fit
from components.training.weights import weights
from tests.components.training.toy import Regression, config

Masked = tuple[Tensor, Tensor, Tensor]


class MaskedRegression(Regression):
    """The mean over the examples that count; in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.model.double()

    def loss(self, batch: Masked) -> tuple[Tensor, dict[str, Tensor | float]]:
        inputs, targets, mask = batch
        errors = (self.model(inputs) - targets).square()[mask]
        return errors.mean(), {"weight": mask.sum(), "largest": errors.detach().mean() * 2}

    def validate(self) -> dict[str, float]:
        return {"loss": float(self.model(torch.ones(1, 4).double()))}


def masked(size: int) -> Callable[[int], Iterator[Masked]]:
    """In groups of four examples, three count, one, two, all, one, three, one ...: steps weigh differently, too."""

    def stream(start: int) -> Iterator[Masked]:
        while True:
            numbers = range(start * size, (start + 1) * size)
            rows = [torch.randn(4, generator=torch.Generator().manual_seed(number)).double() for number in numbers]
            mask = torch.tensor([number % 4 < (3, 1, 2, 4, 1)[number // 4 % 5] for number in numbers])
            inputs = torch.stack(rows)
            yield inputs, inputs.sum(1, keepdim=True), mask
            start += 1

    return stream


def test_weighted_micro_batches_equal_the_large_batch() -> None:
    whole, parts = MaskedRegression(), MaskedRegression()
    first = fit(whole, masked(16), config(batch_size=16), checkpoints=None)
    second = fit(parts, masked(4), config(batch_size=4, accumulation=4), checkpoints=None)
    for name, value in weights(whole.model).items():
        torch.testing.assert_close(weights(parts.model)[name], value, rtol=1e-6, atol=1e-6)
    for one, other in zip(first.rows, second.rows, strict=True):
        assert other == pytest.approx(one, rel=1e-6)
    assert set(first.rows[0]) == {"step", "loss", "largest", "gradient_norm", "learning_rate"}


def test_without_weights_they_would_differ() -> None:
    class Unweighted(MaskedRegression):
        def loss(self, batch: Masked) -> tuple[Tensor, dict[str, Tensor | float]]:
            return super().loss(batch)[0], {}

    whole, parts = Unweighted(), Unweighted()
    fit(whole, masked(16), config(batch_size=16), checkpoints=None)
    fit(parts, masked(4), config(batch_size=4, accumulation=4), checkpoints=None)
    difference = max(
        float((weights(parts.model)[name] - value).abs().max()) for name, value in weights(whole.model).items()
    )
    assert difference > 1e-3


def test_equal_weights_are_no_weights() -> None:
    """Factors of one, and a division by the number of micro-batches, four, which is exact."""

    class Even(MaskedRegression):
        weighed = True

        def loss(self, batch: Masked) -> tuple[Tensor, dict[str, Tensor | float]]:
            return (self.model(batch[0]) - batch[1]).square().mean(), {"weight": 4.0} if self.weighed else {}

    one, other = Even(), Even()
    other.weighed = False
    for task in (one, other):
        fit(task, masked(4), config(accumulation=4), checkpoints=None)
    assert all(torch.equal(value, weights(other.model)[name]) for name, value in weights(one.model).items())


def test_weights_change_no_bit_where_nothing_is_accumulated() -> None:
    class Unweighted(MaskedRegression):
        def loss(self, batch: Masked) -> tuple[Tensor, dict[str, Tensor | float]]:
            loss, figures = super().loss(batch)
            return loss, {"largest": figures["largest"]}

    one, other = MaskedRegression(), Unweighted()
    histories = [fit(task, masked(4), config(), checkpoints=None) for task in (one, other)]
    assert histories[0].rows == histories[1].rows
    assert all(torch.equal(value, weights(other.model)[name]) for name, value in weights(one.model).items())
