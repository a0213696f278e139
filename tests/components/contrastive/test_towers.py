"""Two towers and their loss, against the loss written out."""

import math

import pytest
import torch

from components.contrastive.loss import clip_loss
from components.contrastive.towers import TwoTowers
from components.encoders.image import ImageEncoder
from components.encoders.image_config import ImageConfig
from components.encoders.text import TextEncoder
from components.encoders.text_config import TextConfig
from components.transformer.config import TransformerConfig


@pytest.fixture
def towers() -> TwoTowers:
    torch.manual_seed(0)
    small = TransformerConfig(width=32, depth=1, heads=2)
    return TwoTowers(ImageEncoder(ImageConfig(small, 16, 8)), TextEncoder(TextConfig(small, 8), 30), space=12)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(8) < torch.tensor([[8], [3], [5], [1]])
    return torch.rand(4, 3, 16, 16, generator=generator), torch.randint(30, (4, 8), generator=generator), mask


def test_loss_by_hand(towers, batch):
    images, texts, scale = towers(*batch)
    assert scale.item() == pytest.approx(1 / 0.07, rel=1e-6)
    total = 0.0
    for one, other in ((images, texts), (texts, images)):
        for i in range(4):
            scores = [
                scale.item() * sum(a * b for a, b in zip(one[i].tolist(), item.tolist(), strict=True)) for item in other
            ]
            total += math.log(sum(math.exp(score) for score in scores)) - scores[i]
    assert clip_loss(images, texts, scale).item() == pytest.approx(total / 8, rel=1e-4)


def test_vectors_have_unit_length_also_under_autocast(towers, batch):
    with torch.autocast("cpu", torch.bfloat16):
        images, texts, _ = towers(*batch)
    torch.testing.assert_close(torch.stack([images, texts]).norm(dim=-1), torch.ones(2, 4))


def test_gradients_reach_every_parameter(towers, batch):
    clip_loss(*towers(*batch)).backward()
    assert [name for name, weight in towers.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_scale_is_clipped_at_100_and_comes_back(towers, batch):
    with torch.no_grad():
        towers.logarithm_of_scale.fill_(7.0)
    towers.eval()(*batch)
    assert towers.logarithm_of_scale.item() == 7.0  # reading changes nothing
    _, _, scale = towers.train()(*batch)
    assert scale.item() == pytest.approx(100.0, rel=1e-5)
    scale.backward()
    assert towers.logarithm_of_scale.grad is not None
    assert towers.logarithm_of_scale.grad.item() > 0
