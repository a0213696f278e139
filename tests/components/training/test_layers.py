"""Layer-wise learning rates against BEiT's own numbering, written out by hand."""

import pytest
import timm
from torch import nn

from components.contrastive.towers import TwoTowers
from components.encoders.text import TextEncoder
from components.encoders.text_config import TextConfig
from components.training.layers import layer_scales
from components.training.optimiser import build
from components.transformer.config import TransformerConfig
from tests.components.training.toy import Stacked, config


def test_every_parameter_of_a_vit_as_beit_counts() -> None:
    """BEiT's get_num_layer_for_vit: patches, positions and class token 0, block i: i + 1, the rest depth + 1; the
    rate is decay ** (depth + 1 - layer)."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, embed_dim=12, num_heads=2)
    scales = layer_scales(model, 0.5)

    def layer(name: str) -> int:
        if name.startswith(("cls_token", "pos_embed", "patch_embed")):
            return 0
        return int(name.split(".")[1]) + 1 if name.startswith("blocks") else 4

    assert scales == {name: 0.5 ** (4 - layer(name)) for name, _ in model.named_parameters()}


def test_each_stack_has_its_own_depth() -> None:
    def tower(depth: int) -> TextEncoder:
        shape = TransformerConfig(width=8, depth=depth, heads=2, positions="learned")
        return TextEncoder(TextConfig(shape, context=4), vocabulary=5)

    scales = layer_scales(TwoTowers(tower(1), tower(3), space=4), 0.5)  # two texts: names alone matter
    assert scales["image.embedding.weight"] == scales["image.stack.positions.table"] == 0.25
    assert scales["text.embedding.weight"] == scales["text.stack.positions.table"] == 0.0625
    assert scales["image.stack.blocks.0.attention.project_in.weight"] == 0.5
    assert [scales[f"text.stack.blocks.{i}.attention.project_in.weight"] for i in range(3)] == [0.125, 0.25, 0.5]
    top = ("image.stack.norm.weight", "text.stack.norm.weight", "project_image.weight", "logarithm_of_scale")
    assert {scales[name] for name in top} == {1.0}


def test_the_rate_of_each_group_is_multiplied_and_every_parameter_comes_once() -> None:
    model = Stacked(0.0, depth=2)
    optimiser = build(model, config(layer_decay=0.5, optimiser="muon"))
    optimiser.set_rate(0.8)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimiser.param_groups for p in group["params"]}
    assert len(rates) == len(optimiser.parameters) == len(names)
    expected = {"stem": 0.1, "blocks.0": 0.2, "blocks.1": 0.4, "head": 0.8}
    assert rates == {name: next(rate for key, rate in expected.items() if name.startswith(key)) for name in rates}


def test_without_decay_nothing_changes_and_without_blocks_decay_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    assert set(layer_scales(model, 1.0).values()) == {1.0}
    assert len(build(model, config()).param_groups) == 2
    with pytest.raises(ValueError, match="^layer_decay 0.9: Sequential has no parameters named blocks.<i>"):
        layer_scales(model, 0.9)
