"""The stack: parity with torch's own pre-norm encoder, padding, dropout, initialisation, refused shapes."""

import math

import jaxtyping
import pytest
import torch
from torch import nn

from components.attention.cache import Cache
from components.attention.config import BlockSparse, Linformer, Local, Performer, Softmax
from components.transformer.config import TransformerConfig
from components.transformer.stack import Stack

CONFIG = TransformerConfig(width=32, depth=3, heads=4)


def built(config: TransformerConfig = CONFIG, **kind) -> Stack:
    torch.manual_seed(0)
    return Stack(config, context=16, scale=1.0, **kind)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("place", ["pre", "post"])
def test_equals_torchs_encoder_with_the_same_weights(causal, place):
    stack = built(TransformerConfig(width=32, depth=3, heads=4, positions="learned", norm_place=place), causal=causal)
    layer = nn.TransformerEncoderLayer(
        32, 4, 128, dropout=0.0, activation="gelu", batch_first=True, norm_first=place == "pre"
    )
    last = nn.LayerNorm(32) if place == "pre" else None
    peer = nn.TransformerEncoder(layer, 3, norm=last, enable_nested_tensor=False).train()
    with torch.no_grad():
        for theirs, ours in zip(peer.layers, stack.blocks, strict=True):
            pairs = {
                theirs.self_attn.in_proj_weight: ours.attention.project_in.weight,
                theirs.self_attn.in_proj_bias: ours.attention.project_in.bias,
                theirs.self_attn.out_proj.weight: ours.attention.project_out.weight,
                theirs.linear1.weight: ours.feed_forward.project_in.weight,
                theirs.linear2.weight: ours.feed_forward.project_out.weight,
            }
            for target, source in pairs.items():
                target.copy_(source)
            for zero in (theirs.self_attn.out_proj.bias, theirs.linear1.bias, theirs.linear2.bias):
                zero.zero_()
    tokens = torch.randn(2, 9, 32)
    mask = torch.arange(9) < torch.tensor([[9], [5]])
    forbidden = torch.ones(9, 9, dtype=torch.bool).triu(1) if causal else None
    first = tokens + stack.positions.table[:9]
    first = first if place == "pre" else stack.norm(first)
    expected = peer(first, mask=forbidden, src_key_padding_mask=~mask)
    torch.testing.assert_close(stack(tokens, mask)[mask], expected[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_padding_does_not_reach_real_tokens(positions):
    stack = built(TransformerConfig(width=32, depth=3, heads=4, positions=positions))
    tokens = torch.randn(2, 10, 32)
    mask = torch.arange(10) < torch.tensor([[10], [6]])
    alone = stack(tokens[1:, :6])
    torch.testing.assert_close(stack(tokens, mask)[1:, :6], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        stack(tokens.masked_fill(~mask[..., None], 9.0), mask)[1:, :6], alone, atol=1e-5, rtol=1e-5
    )


def test_a_causal_stack_does_not_look_ahead():
    stack = built(causal=True)
    tokens = torch.randn(1, 10, 32)
    changed = torch.cat([tokens[:, :6], torch.randn(1, 4, 32)], dim=1)
    torch.testing.assert_close(stack(tokens)[:, :6], stack(changed)[:, :6])


def test_gradients_reach_every_parameter():
    stack = built(TransformerConfig(width=32, depth=2, heads=4, dropout=0.1, positions="learned"))
    stack(torch.randn(2, 16, 32)).square().mean().backward()
    assert [name for name, weight in stack.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@pytest.mark.parametrize(
    "kind",
    [Softmax(), Local(window=3), BlockSparse(block=4), Linformer(rank=4), Performer(features=32)],
    ids=lambda kind: kind.kind,
)
@pytest.mark.parametrize("mode", ["selective", "recompute"])
def test_activations_computed_again_change_no_gradient(kind, mode):
    shape = TransformerConfig(width=32, depth=2, heads=4, attention=kind, dropout=0.2, drop_path=0.2)
    stack, tokens = built(shape), torch.randn(2, 16, 32)

    def gradients(activations):
        stack.activations = activations
        torch.manual_seed(1)
        return torch.autograd.grad(stack(tokens).square().mean(), list(stack.parameters()))

    for ours, plain in zip(gradients(mode), gradients("keep"), strict=True):
        assert torch.equal(ours, plain)


@pytest.mark.parametrize("name", ["dropout", "attention_dropout", "position_dropout", "drop_path"])
def test_dropout_acts_in_training_only(name):
    stack = built(TransformerConfig(width=32, depth=2, heads=4, **{name: 0.5}))
    tokens = torch.randn(1, 8, 32)
    assert len({stack(tokens).sum().item() for _ in range(8)}) > 1
    stack.eval()
    assert torch.equal(stack(tokens), stack(tokens))


def test_initial_scales():
    stack = built(TransformerConfig(width=256, depth=8, heads=4))
    small = math.sqrt(2 / (5 * 256))
    block = stack.blocks[3]
    for linear, expected in (
        (block.attention.project_in, small),
        (block.feed_forward.project_in, small),
        (block.attention.project_out, small / 4),
        (block.feed_forward.project_out, small / 4),
    ):
        assert linear.weight.std().item() == pytest.approx(expected, rel=0.02)
        assert not linear.bias.any()


def test_constant_initialisation():
    block = built(TransformerConfig(width=256, depth=8, heads=4, initialise="constant")).blocks[3]
    for linear in (block.attention.project_in, block.attention.project_out, block.feed_forward.project_out):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_lengths_that_are_not_the_rows_are_refused():
    with pytest.raises(ValueError, match=r"lengths \[3, 4\] are of one row of 7 tokens .* not of \[1, 8\]"):
        built()(torch.randn(1, 8, 32), lengths=(3, 4))


@pytest.mark.parametrize(
    ("mask", "cached", "message"),
    [
        (torch.ones(2, 8), 0, r"is torch.float32 \[2, 8\]: for 2 rows of 8 tokens.* must be torch.bool \[2, 8\]"),
        (torch.ones(2, 8).long(), 0, r"is torch.int64 \[2, 8\]: for 2 rows of 8 tokens"),
        (torch.ones(2, 7).bool(), 0, r"is torch.bool \[2, 7\]: for 2 rows of 8 tokens"),
        (torch.ones(2, 1, 8).bool(), 0, r"is torch.bool \[2, 1, 8\]: for 2 rows of 8 tokens"),
        (torch.ones(2, 8).bool(), 3, r"is torch.bool \[2, 8\]: for 2 rows of 11 tokens, cached ones included"),
    ],
)
def test_a_mask_of_another_kind_is_refused(mask, cached, message, monkeypatch):
    """Hugging Face's float mask of 0 and 1 would be added to the scores. As people run it, without shape checks."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    stack = built(causal=cached > 0)
    cache: Cache | None = stack.cache(2) if cached else None
    if cached:
        stack(torch.randn(2, cached, 32), cache=cache)
    with pytest.raises(ValueError, match=message):
        stack(torch.randn(2, 8, 32), mask, cache)


@pytest.mark.parametrize(
    ("field", "name", "known"),
    [
        ("norm", "batch", "layer, rms, none"),
        ("norm_place", "Post", "pre, post"),
        ("activation", "mish", "gelu, gelu_tanh, quick_gelu, relu, swiglu"),
        ("positions", "Rotary", "none, sinusoidal, learned, rotary, alibi, relative"),
        ("bias", "no", "all, qkv, none"),
        ("initialise", "small", "scaled, constant"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(field, name, known, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as people run it
    with pytest.raises(ValueError, match=f"^{field} '{name}' is unknown: known are {known}$"):
        TransformerConfig(width=32, depth=1, heads=4, **{field: name})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"width": 32, "heads": 4, "key_value_heads": 3}, "heads 4 do not divide by key_value_heads 3"),
        ({"width": 32, "heads": 4, "positions": "alibi", "attention": Local()}, "positions alibi .* attention local"),
        ({"width": 32, "heads": 4, "attention_dropout": 0.1, "attention": Performer()}, "attention performer"),
        ({"width": 30, "heads": 4}, "width 30 does not divide by heads 4"),
        ({"width": 12, "heads": 4}, "leave an odd 3"),
        ({"width": 9, "heads": 3, "positions": "sinusoidal"}, "need an even width, not 9"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(depth=1, **shape)
