"""Which parameters AdamW decays, and one update against the paper's formula."""

import math

import timm
import torch
from torch import nn

from components.encoders.text import TextEncoder
from components.encoders.text_config import TextConfig
from components.training.optimiser import build
from components.transformer.config import TransformerConfig
from tests.components.training.toy import config


def decays(model: nn.Module) -> dict[str, float]:
    """Weight decay of each parameter by name; absent where the optimiser does not know it."""
    groups = build(model, config(weight_decay=0.3)).param_groups
    by_identity = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    return {name: by_identity[id(p)] for name, p in model.named_parameters() if id(p) in by_identity}


def test_own_encoder() -> None:
    shape = TransformerConfig(width=8, depth=1, heads=2, positions="learned")
    found = decays(TextEncoder(TextConfig(shape, context=4), vocabulary=5))
    assert {name for name, decay in found.items() if decay} == {
        "embedding.weight",
        "stack.blocks.0.attention.project_in.weight",
        "stack.blocks.0.attention.project_out.weight",
        "stack.blocks.0.feed_forward.project_in.weight",
        "stack.blocks.0.feed_forward.project_out.weight",
    }
    assert found["stack.positions.table"] == 0
    assert len(found) == 16


def test_timm_vit_agrees_with_timm() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=12, num_heads=2)
    spared = model.no_weight_decay()  # type: ignore[operator]
    expected = {n: 0.0 if p.ndim == 1 or n in spared else 0.3 for n, p in model.named_parameters()}
    assert decays(model) == expected
    assert expected["pos_embed"] == expected["cls_token"] == 0


def test_frozen_parameters_are_left_out_and_tied_ones_come_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].requires_grad_(False)
    model[2].weight = model[1].weight
    assert set(decays(model)) == {"1.weight", "1.bias", "2.bias"}


def test_one_step_by_hand() -> None:
    """arXiv:1711.05101, algorithm 2: after one step the bias-corrected moments are g and g^2."""
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, 2.0)
    nn.init.constant_(model.bias, 3.0)
    optimiser = build(model, config(weight_decay=0.1, betas=(0.9, 0.99)))
    optimiser.set_rate(0.5)
    model(torch.tensor([[4.0]])).sum().backward()
    optimiser.step()
    assert math.isclose(model.weight.item(), 2 - 0.5 * 0.1 * 2 - 0.5, rel_tol=1e-6)
    assert math.isclose(model.bias.item(), 3 - 0.5, rel_tol=1e-6)
