"""The parts of a block against their papers' formulas."""

import pytest
import torch
import torch.nn.functional as F

from components.transformer.config import TransformerConfig
from components.transformer.drop_path import DropPath, rates
from components.transformer.feed_forward import FeedForward
from components.transformer.norm import norm


def test_swiglu_is_the_formula():
    torch.manual_seed(0)
    layer, tokens = FeedForward(8, 12, "swiglu", bias=False), torch.randn(2, 3, 8)
    gate, up = layer.project_in.weight.split(12)
    torch.testing.assert_close(layer(tokens), (F.silu(tokens @ gate.T) * (tokens @ up.T)) @ layer.project_out.weight.T)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("gelu", lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5))),
        ("gelu_tanh", lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))),
        ("quick_gelu", lambda x: x / (1 + torch.exp(-1.702 * x))),
        ("relu", lambda x: x * (x > 0)),
    ],
)
def test_activations_are_their_formulas(name, formula):
    layer = FeedForward(4, 4, name)
    with torch.no_grad():
        for linear in (layer.project_in, layer.project_out):
            linear.weight.copy_(torch.eye(4))
            linear.bias.zero_()
        tokens = torch.randn(1, 5, 4) * 3
        torch.testing.assert_close(layer(tokens), formula(tokens), atol=1e-5, rtol=1e-5)


def test_norms_are_their_formulas():
    tokens = torch.randn(2, 3, 16) * 3 + 1
    shape = {"width": 16, "depth": 1, "heads": 2, "norm_epsilon": 1e-3}
    centred = tokens - tokens.mean(-1, keepdim=True)
    expected = {
        "layer": centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt(),
        "rms": tokens / (tokens.square().mean(-1, keepdim=True) + 1e-3).sqrt(),
        "none": tokens,
    }
    for name, value in expected.items():
        torch.testing.assert_close(norm(TransformerConfig(norm=name, **shape))(tokens), value)


def test_drop_path_skips_whole_sequences_and_keeps_the_mean():
    torch.manual_seed(0)
    path, branch = DropPath(0.25), torch.ones(4000, 2, 3)
    kept = path(branch)
    assert kept.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (kept == kept[:, :1, :1]).all()
    assert kept.mean().item() == pytest.approx(1.0, abs=0.03)
    packed = path(torch.ones(1, 6000, 3), (1, 2, 3) * 1000)[0, :, 0]
    sequences = packed.split((1, 2, 3) * 1000)
    assert all((sequence == sequence[0]).all() for sequence in sequences)
    assert torch.stack([sequence[0] for sequence in sequences]).mean().item() == pytest.approx(1.0, abs=0.03)
    assert path.eval()(branch) is branch


def test_rates_rise_linearly_from_the_first_block():
    assert rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert rates(0.3, 1) == [0.0]
