"""FAVOR+ against its formula over all pairs at once, and against the softmax attention that it approximates."""

import pytest
import torch
from torch import nn

from components.attention import favor
from components.attention.performer import PerformerCore, orthogonal_directions
from tests.components.attention.dense import compare, inputs, softmax, tail


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(favor, "CHUNK", 16)


def built(causal: bool, features=24, seed=0, head_features=8) -> PerformerCore:
    return PerformerCore(head_features=head_features, features=features, seed=seed, causal=causal).double()


def formula(core, queries, keys, values, allowed):
    """Equations 4 and 7 with an explicit matrix of all pairs. allowed: [b or 1, n, m]."""
    share = queries.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(share, 1), values.repeat_interleave(share, 1)

    def features(tokens):
        scaled = tokens / tokens.shape[3] ** 0.25
        count = core.directions.shape[0]
        return (scaled @ core.directions.T - scaled.square().sum(3, keepdim=True) / 2).exp() / count**0.5

    weights = features(queries) @ features(keys).mT * allowed[:, None]
    return weights / weights.sum(3, keepdim=True).clamp_min(1e-300) @ values


def pairs(length: int, causal: bool) -> torch.Tensor:
    every = torch.ones(1, length, length, dtype=torch.bool)
    return every.tril() if causal else every


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 70])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_is_the_formula_with_its_gradients(length, groups, causal):
    core, given = built(causal), inputs(length, groups=groups)
    compare(core, given, formula(core, *given[:3], pairs(length, causal)))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
def test_padding(groups, causal):
    core, given, mask = built(causal), inputs(70, groups=groups), tail(70)
    compare(core, given, formula(core, *given[:3], pairs(70, causal) & mask[:, None]), mask)
    spoilt = [torch.where(mask[:, None, :, None], part, 50.0) for part in given[:3]]
    found, expected = (core(*parts, mask).transpose(1, 2)[mask] for parts in (spoilt, given[:3]))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("causal", [False, True])
def test_queries_without_a_real_key_give_zeros_and_pass_none_back(causal):
    """Padding at the start, and one row that is nothing else."""
    core, given = built(causal), inputs(70)
    mask = torch.arange(70) >= torch.tensor([[40], [70]])
    compare(core, given, formula(core, *given[:3], pairs(70, causal) & mask[:, None]), mask)
    out = core(*given[:3], mask)
    gradients = torch.autograd.grad(out, given[:3], given[3])
    assert all(not part[1].any() and part.isfinite().all() for part in (out, *gradients))


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_the_finite_differences(causal):
    *sources, _ = inputs(37, heads=2, groups=1, features=3)
    core = built(causal, features=5, head_features=3)
    assert torch.autograd.gradcheck(lambda *sources: core(*sources, tail(37)), sources, fast_mode=True)


@pytest.mark.parametrize("causal", [False, True])
def test_single_precision_within_1e_5(causal):
    given = inputs(70, dtype=torch.float32)
    exact = [part.double() for part in given]
    core = built(causal)
    expected = formula(core, *exact[:3], pairs(70, causal)).float()
    compare(core.float(), given, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_norms_that_underflow_the_plain_formula_stay_exact(causal):
    """Keys of norm 40: exponents about -283 in single precision, where every feature itself would be zero."""
    queries, keys, values, cotangent = (part.detach() for part in inputs(70))
    exact = [part.requires_grad_() for part in (queries, 40 * nn.functional.normalize(keys, dim=3), values)]
    core = built(causal)
    expected = formula(core, *exact, pairs(70, causal))
    wanted = torch.autograd.grad(expected, exact, cotangent)
    single = [part.detach().float().requires_grad_() for part in exact]
    found = core.float()(*single)
    given = torch.autograd.grad(found, single, cotangent.float())
    for one, other in zip((found, *given), (expected, *wanted), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("causal", [False, True])
def test_a_key_far_above_the_earlier_ones_leaves_everything_finite(causal):
    *sources, cotangent = (part.detach() for part in inputs(40, dtype=torch.float32))
    sources[1][:, :, :9] *= 100  # exponents of -2,000 and less, beside others near 0, in one chunk
    sources = [part.requires_grad_() for part in sources]
    out = built(causal).float()(*sources)
    assert all(part.isfinite().all() for part in (out, *torch.autograd.grad(out, sources, cotangent)))


def test_the_error_against_softmax_is_bounded_and_falls_as_the_root_of_features():
    """A weight's, relative. That of its kernel has the variance (exp(|x + y|^2) - 1) / m at most, for scaled x and y
    (Lemma 2), and the sum that it is divided by adds no more again."""
    length = 16  # as many tokens as features: the values can be the identity, and the output is the weights
    queries, keys = (0.45 * part.detach() for part in inputs(length, features=length, seed=1)[:2])
    values = torch.eye(length, dtype=torch.float64).expand_as(keys)
    exact = softmax(queries, keys, values, pairs(length, False))
    sums = (queries[:, :, :, None] + keys[:, :, None]).square().sum(4) / length**0.5
    errors = {}
    for features in (64, 256, 1024, 4096):
        drawn = [built(False, features, seed, length)(queries, keys, values) / exact - 1 for seed in range(12)]
        errors[features] = torch.stack(drawn).square().mean().sqrt().item()
        assert errors[features] < 2 * (sums.expm1().mean() / features).sqrt()
    for few, many in ((64, 256), (256, 1024), (1024, 4096)):
        assert 1.6 < errors[few] / errors[many] < 2.5


def test_directions_are_orthogonal_with_gaussian_lengths():
    directions = orthogonal_directions(16 * 200, 16, seed=0).double()
    block = directions[:16] @ directions[:16].T
    torch.testing.assert_close(block, block.diagonal().diag(), rtol=1e-4, atol=1e-4)
    assert directions.square().sum(1).mean().item() == pytest.approx(16, rel=0.02)  # chi-square, c degrees
    assert directions.square().sum(1).var().item() == pytest.approx(32, rel=0.1)
    each = directions.unflatten(0, (200, 16)).mean(0)  # no place of a block leans to one side
    assert each.abs().max() < 0.3


def test_directions_are_the_seeds_alone_and_saved():
    core = built(True, seed=4)
    assert torch.equal(core.directions.float(), orthogonal_directions(24, 8, 4))
    assert not torch.equal(core.directions, built(True, seed=5).directions)
    assert "directions" in core.state_dict()


@pytest.mark.parametrize("causal", [False, True])
def test_halves_and_autocast(causal):
    *sources, cotangent = inputs(70, dtype=torch.float32)
    core = built(causal).float()
    halves = [part.bfloat16() for part in sources]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = core(*sources)
        gradients = torch.autograd.grad(out, sources, cotangent.bfloat16())
    exact = [part.float().detach().requires_grad_() for part in halves]
    expected = core(*exact)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, expected.bfloat16())
    wanted = torch.autograd.grad(expected, exact, cotangent.bfloat16().float())
    torch.testing.assert_close(gradients, wanted, rtol=0.02, atol=0.02)


def test_refuses_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="head_features is 8 and features 0: both must be at least 1"):
        built(True, features=0)
    with pytest.raises(ValueError, match="heads have 8 features, and the random ones were drawn for 16"):
        built(True, head_features=16)(*inputs(5)[:3])
