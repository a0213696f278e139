"""The chunked loss against torch's over all logits at once."""

import pytest
import torch
import torch.nn.functional as F

from components.decoders import loss as chunked
from components.decoders.loss import IGNORED, vocabulary_loss


def batch(dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(23, 8, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(50, 8, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(50, (23,), generator=generator)
    targets[[3, 4, 22]] = IGNORED
    return hidden, weight, targets


@pytest.mark.parametrize("rows", [1, 7, 23, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_loss_and_gradients_equal_torchs(rows, smoothing, monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK", rows * 50)
    hidden, weight, targets = batch(torch.float32)
    ours = vocabulary_loss(hidden, weight, targets, smoothing)
    theirs = F.cross_entropy(hidden @ weight.T, targets, label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours * 3, (hidden, weight)), torch.autograd.grad(theirs * 3, (hidden, weight))
    )


def test_under_autocast_it_stays_near_full_precision():
    hidden, weight, targets = batch(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours = vocabulary_loss(hidden, weight, targets)
    theirs = F.cross_entropy(hidden @ weight.T, targets)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, atol=0.03, rtol=0)
    for given, expected in zip(
        torch.autograd.grad(ours, (hidden, weight)), torch.autograd.grad(theirs, (hidden, weight)), strict=True
    ):
        assert given.dtype == torch.float32
        torch.testing.assert_close(given, expected, atol=0.02 * float(expected.abs().max()), rtol=0.02)


def test_without_gradients_it_only_scores():
    hidden, weight, targets = batch(torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(
            vocabulary_loss(hidden, weight, targets), F.cross_entropy(hidden @ weight.T, targets)
        )
