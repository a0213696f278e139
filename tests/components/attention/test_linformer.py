"""Linformer against equation 7 written out, and against the exact attention that identity projections give."""

import pytest
import torch

from components.attention.linformer import LinformerCore
from tests.components.attention.dense import compare, inputs, softmax, tail


def built(rank=5, context=40) -> LinformerCore:
    torch.manual_seed(0)
    return LinformerCore(rank=rank, context=context, causal=False).double()


def formula(core: LinformerCore, queries, keys, values, mask=None):
    """A loop over rows and heads."""
    rows = []
    for row in range(queries.shape[0]):
        heads = []
        for head in range(queries.shape[1]):
            group = head * keys.shape[1] // queries.shape[1]
            real = 1.0 if mask is None else mask[row, :, None].double()
            length = keys.shape[2]
            key = core.project_keys[:, :length] @ (keys[row, group] * real)
            value = core.project_values[:, :length] @ (values[row, group] * real)
            heads.append(torch.softmax(queries[row, head] @ key.T / keys.shape[3] ** 0.5, dim=1) @ value)
        rows.append(torch.stack(heads))
    return torch.stack(rows)


@pytest.mark.parametrize("length", [1, 3, 39, 40])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("padded", [False, True])
def test_is_the_formula_with_its_gradients(length, groups, padded):
    core, given = built(), inputs(length, groups=groups)
    mask = tail(length) if padded else None
    expected = formula(core, *given[:3], mask)
    compare(core, given, expected, mask)
    weights = list(core.parameters())
    found = torch.autograd.grad(core(*given[:3], mask), weights, given[3])
    torch.testing.assert_close(found, torch.autograd.grad(expected, weights, given[3]))


def test_identity_projections_give_exact_attention():
    core, given = built(rank=30, context=30), inputs(30)
    with torch.no_grad():
        core.project_keys.copy_(torch.eye(30))
        core.project_values.copy_(torch.eye(30))
    compare(core, given, softmax(*given[:3], torch.ones(1, 30, 30)))


def test_padding_of_another_kind_changes_nothing():
    core, mask = built(), tail(40)
    *sources, _ = inputs(40)
    spoilt = [sources[0], *(torch.where(mask[:, None, :, None], part, torch.inf) for part in sources[1:])]
    torch.testing.assert_close(core(*spoilt, mask), core(*sources, mask))


def test_projected_keys_keep_the_scale_of_keys():
    core = built(rank=64, context=512)
    keys = torch.randn(512, 64, dtype=torch.float64)
    assert (core.project_keys @ keys).std().item() == pytest.approx(1.0, abs=0.1)


def test_autocast_computes_in_its_precision():
    *sources, cotangent = inputs(40, dtype=torch.float32)
    core = built().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = core(*sources)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), core(*sources), rtol=0.05, atol=0.05)
    assert all(part.isfinite().all() for part in torch.autograd.grad(out, sources, cotangent.bfloat16()))


def test_refuses_to_be_causal():
    with pytest.raises(ValueError, match="linformer cannot be causal"):
        LinformerCore(rank=4, context=8, causal=True)


def test_refuses_no_rank_and_too_long_a_sequence():
    with pytest.raises(ValueError, match="rank is 0 and context 8: both must be at least 1"):
        LinformerCore(rank=0, context=8, causal=False)
    with pytest.raises(ValueError, match="41 tokens do not fit a context of 40"):
        built()(*inputs(41)[:3])
