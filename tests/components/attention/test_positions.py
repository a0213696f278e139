"""Positions against their papers' formulas and properties."""

import math

import pytest
import torch

from components.attention.positions import KINDS, Place, positions, rotate


def test_sinusoidal_is_the_formula():
    table = positions("sinusoidal", Place(50, 8, 2, 1.0)).embed(torch.zeros(1, 50, 8), slice(0, 50))[0]
    for place in (0, 1, 17, 49):
        for pair in range(4):
            angle = place / 10000 ** (2 * pair / 8)
            assert table[place, 2 * pair].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[place, 2 * pair + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_rotary_scores_depend_on_the_distance_alone():
    rotary = positions("rotary", Place(64, 32, 2, 1.0))
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 16).double()

    def score(first: int, second: int) -> float:
        turned = [
            rotate(vector, tuple(part.double() for part in rotary.rotation(slice(place, place + 1))))
            for vector, place in ((query, first), (key, second))
        ]
        return (turned[0] * turned[1]).sum().item()

    assert score(5, 2) == pytest.approx(score(63, 60), abs=1e-5)
    assert score(5, 2) != pytest.approx(score(5, 3), abs=1e-2)
    assert score(9, 9) == pytest.approx((query * key).sum().item(), abs=1e-5)


def test_rotary_pairs_and_angles_by_hand():
    turned = rotate(
        torch.tensor([1.0, 0.0, 0.0, 2.0]).view(1, 1, 1, 4),
        positions("rotary", Place(8, 4, 1, 1.0)).rotation(slice(3, 4)),
    )
    # pairs (0, 2) and (1, 3) turn by 3 and by 3 / 10000^(1/2) = 0.03
    expected = [math.cos(3), -2 * math.sin(0.03), math.sin(3), 2 * math.cos(0.03)]
    torch.testing.assert_close(turned.flatten(), torch.tensor(expected))


def test_the_gradient_of_a_rotation_is_that_of_its_arithmetic():
    rotation = tuple(part.double() for part in positions("rotary", Place(8, 12, 2, 1.0)).rotation(slice(1, 6)))
    heads = torch.randn(2, 5, 3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda heads: rotate(heads, rotation), heads)


@pytest.mark.parametrize("name", KINDS)
def test_a_start_continues_where_the_last_tokens_ended(name):
    torch.manual_seed(0)
    kind = positions(name, Place(12, 16, 2, 1.0))
    tokens, places = torch.randn(2, 12, 16), torch.arange(12)
    for later in (slice(7, 12), places[7:]):
        torch.testing.assert_close(kind.embed(tokens, slice(0, 12))[:, 7:], kind.embed(tokens[:, 7:], later))
        whole, part = kind.rotation(slice(0, 12)), kind.rotation(later)
        if name == "rotary":
            torch.testing.assert_close(tuple(half[7:] for half in whole), part)
        else:
            assert whole is None
            assert part is None
    if kind.bias(12, 12) is not None:
        torch.testing.assert_close(kind.bias(12, 12)[:, 7:], kind.bias(5, 12))


def test_alibi_by_hand():
    bias = positions("alibi", Place(12, 24, 3, 1.0)).bias(2, 3)
    # three heads: the two slopes of 2 heads, 2^-4 and 2^-8, then the first of 4 heads, 2^-2
    slopes = torch.tensor([2.0**-4, 2.0**-8, 2.0**-2])
    torch.testing.assert_close(bias, -slopes[:, None, None] * torch.tensor([[1.0, 0.0, 1.0], [2.0, 1.0, 0.0]]))


@pytest.mark.parametrize("causal", [False, True])
def test_relative_buckets_are_those_of_transformers(causal):
    from transformers.models.t5.modeling_t5 import T5Attention

    kind = positions("relative", Place(600, 16, 2, 1.0, causal=causal))
    distances = torch.arange(-600, 601)[None]
    expected = T5Attention._relative_position_bucket(distances, bidirectional=not causal)
    assert torch.equal(kind.buckets(distances), expected)


def test_relative_bias_is_the_bucket_of_each_distance():
    kind = positions("relative", Place(12, 16, 2, 1.0, causal=True))
    torch.nn.init.normal_(kind.table.weight)
    bias = kind.bias(3, 5)
    for query in range(3):
        for key in range(query + 3):
            torch.testing.assert_close(bias[:, query, key], kind.table.weight[query + 2 - key])


def test_too_many_tokens_are_refused_with_both_figures():
    with pytest.raises(ValueError, match="13 tokens do not fit a context of 12"):
        positions("learned", Place(12, 16, 2, 1.0)).span(10, 3)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'alibis' are unknown: choose one of none, sinusoidal, learned, rotary"):
        positions("alibis", Place(12, 16, 2, 1.0))
