"""fp16 with its loss scale: fp32's result, steps skipped where a gradient overflows, and a scale that falls too far."""

import pytest
import torch
from torch import Tensor

from components.training.fit import fit
from components.training.weights import weights
from tests.components.training.toy import Batch, Regression, batches, config, equal


class Watched(Regression):
    """Remembers its weights before each micro-batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Tensor]] = []
        self.kinds: set[torch.dtype] = set()

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
        self.seen.append({name: value.clone() for name, value in weights(self.model).items()})
        self.kinds.add(self.model(batch[0]).dtype)
        return super().loss(batch)


def test_fp16_trains_fp32_weights_as_fp32_does() -> None:
    half, full = Watched(), Regression()
    settings = {"steps": 60, "learning_rate": 0.05, "log_every": 60}
    first = fit(half, batches(4), config(precision="fp16", **settings), checkpoints=None)
    second = fit(full, batches(4), config(**settings), checkpoints=None)
    assert half.kinds == {torch.float16}
    assert {value.dtype for value in weights(half.model).values()} == {torch.float32}
    assert first.figures["loss"] < 0.1 and second.figures["loss"] < 0.1


def test_a_step_whose_gradient_overflows_is_skipped_and_halves_the_scale() -> None:
    """Gradients above 1 times the first scale of 65,536 exceed fp16's largest number, 65,504."""
    task = Watched()
    history = fit(task, batches(4), config(precision="fp16", log_every=1, warmup=0), checkpoints=None)
    scales = [row["loss_scale"] for row in history.rows if "loss_scale" in row]
    before = [65536.0, *scales[:-1]]
    skipped = [scale < earlier for scale, earlier in zip(scales, before, strict=True)]
    assert any(skipped) and not all(skipped)
    assert all(
        scale == earlier / (2 if skip else 1) for scale, earlier, skip in zip(scales, before, skipped, strict=True)
    )
    for step, skip in enumerate(skipped[:-1]):
        unchanged = all(torch.equal(value, task.seen[step + 1][name]) for name, value in task.seen[step].items())
        assert unchanged == skip
    assert ["gradient_norm" in row for row in history.rows if "loss_scale" in row] == [not skip for skip in skipped]


def test_a_scale_that_no_gradient_survives_is_an_error() -> None:
    class Steep(Regression):
        def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
            output = self.model(batch[0])
            return (output - output.detach()).abs().sum().sqrt(), {}  # 0, infinitely steep

    with pytest.raises(FloatingPointError, match=r"^step 17: loss_scale has fallen to 0.5: gradients overflow"):
        fit(Steep(), batches(4), config(precision="fp16", log_every=20), checkpoints=None)


def test_recomputed_and_kept_activations_train_to_the_same_bits() -> None:
    from tests.components.training.toy import StackedRegression

    tasks = [StackedRegression(dropout=0.3) for _ in range(3)]
    for task, mode in zip(tasks, ("keep", "selective", "recompute"), strict=True):
        fit(task, batches(4), config(activations=mode, precision="bf16"), checkpoints=None)
    assert equal(tasks[0].model, tasks[1].model) and equal(tasks[0].model, tasks[2].model)
