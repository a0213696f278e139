"""The averaged weights against a sum written out, and what is judged and kept of them."""

import math

import pytest
import torch
from torch import Tensor, nn

from components.training import ema
from components.training.fit import fit
from components.training.weights import weights
from tests.components.training.toy import Batch, Regression, batches, config, equal


def test_one_number_by_hand() -> None:
    """Decay min(0.5, (1 + t) / (10 + t)): 2/11, 3/12, 4/13, then 0.5 from t = 8 on."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 8.0)
    average, expected = ema.begin(model, 0.5), 8.0
    for step, value in enumerate([1.0, 2.0, 4.0, 3.0, 5.0, 6.0, 7.0, 0.0, 9.0], start=1):
        nn.init.constant_(model.weight, value)
        ema.update(average, model, 0.5, step)
        decay = 0.5 if step >= 8 else (1 + step) / (10 + step)
        expected = decay * expected + (1 - decay) * value
    assert math.isclose(average["weight"].item(), expected, rel_tol=1e-6)


def test_counters_are_copied_and_no_average_costs_nothing() -> None:
    model = nn.BatchNorm1d(2)
    average = ema.begin(model, 0.9)
    model.num_batches_tracked.fill_(7)
    ema.update(average, model, 0.9, 1)
    assert average["num_batches_tracked"] == 7
    assert ema.begin(model, 0.0) == {}


class Watched(Regression):
    """Remembers the weights that each step starts from and each validation sees."""

    def __init__(self) -> None:
        super().__init__()
        self.trained: list[dict[str, Tensor]] = []
        self.judged: list[dict[str, Tensor]] = []

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
        self.trained.append({name: value.clone() for name, value in weights(self.model).items()})
        return super().loss(batch)

    def validate(self) -> dict[str, float]:
        self.judged.append({name: value.clone() for name, value in weights(self.model).items()})
        return super().validate()


@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_average_is_judged_and_kept_and_training_goes_on_from_the_weights(keep: str) -> None:
    plain, task = Watched(), Watched()
    fit(plain, batches(4), config(), checkpoints=None)
    history = fit(task, batches(4), config(ema=0.8, keep=keep), checkpoints=None)
    for own, other in zip(task.trained, plain.trained, strict=True):
        assert all(torch.equal(value, other[name]) for name, value in own.items())

    averages, expected = [], {name: value.double() for name, value in plain.trained[0].items()}
    for step, now in enumerate([*plain.trained[1:], plain.judged[-1]], start=1):
        decay = min(0.8, (1 + step) / (10 + step))
        expected = {name: decay * value + (1 - decay) * now[name] for name, value in expected.items()}
        averages.append(expected)
    for judged, step in zip(task.judged, (6, 12, 18, 20), strict=True):
        for name, value in judged.items():
            torch.testing.assert_close(value, averages[step - 1][name].float(), rtol=1e-5, atol=1e-6)
    assert task.validate() == history.figures
    assert not equal(task.model, plain.model)
