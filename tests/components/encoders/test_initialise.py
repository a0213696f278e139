"""Tokens of a new encoder have the scale that positions are drawn for, whatever the depth of what makes them."""

import pytest
import torch

from components.encoders.image import STEMS
from components.encoders.speech import Front


@pytest.mark.parametrize("name", STEMS)
@pytest.mark.parametrize("patch", [4, 16])
def test_tokens_of_pictures_begin_with_a_scale_near_one(name: str, patch: int) -> None:
    torch.manual_seed(0)
    tokens = STEMS[name](patch, 64)(torch.randn(4, 3, 64, 64))
    assert 0.4 < tokens.std() < 2


@pytest.mark.parametrize("subsampling", [2, 4])
def test_tokens_of_sounds_begin_with_a_scale_near_one(subsampling: int) -> None:
    torch.manual_seed(0)
    tokens, _ = Front(40, 16, 64, subsampling)(torch.randn(2, 80, 40), torch.ones(2, 80, dtype=torch.bool))
    assert 0.4 < tokens.std() < 2
