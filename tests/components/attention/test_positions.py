"""Positions against their papers' formulas and properties."""

import math

import pytest
import torch

from components.attention.positions import KINDS, Place, positions, rotate


def test_sinusoidal_is_the_formula():
    table = positions("sinusoidal", Place(50, 8, 2, 1.0)).embed(torch.zeros(1, 50, 8), 0)[0]
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
            rotate(vector, tuple(part.double() for part in rotary.rotation(1, place)))
            for vector, place in ((query, first), (key, second))
        ]
        return (turned[0] * turned[1]).sum().item()

    assert score(5, 2) == pytest.approx(score(63, 60), abs=1e-5)
    assert score(5, 2) != pytest.approx(score(5, 3), abs=1e-2)
    assert score(9, 9) == pytest.approx((query * key).sum().item(), abs=1e-5)


def test_rotary_pairs_and_angles_by_hand():
    turned = rotate(
        torch.tensor([1.0, 0.0, 0.0, 2.0]).view(1, 1, 1, 4), positions("rotary", Place(8, 4, 1, 1.0)).rotation(1, 3)
    )
    # pairs (0, 2) and (1, 3) turn by 3 and by 3 / 10000^(1/2) = 0.03
    expected = [math.cos(3), -2 * math.sin(0.03), math.sin(3), 2 * math.cos(0.03)]
    torch.testing.assert_close(turned.flatten(), torch.tensor(expected))


@pytest.mark.parametrize("name", KINDS)
def test_a_start_continues_where_the_last_tokens_ended(name):
    torch.manual_seed(0)
    kind = positions(name, Place(12, 16, 2, 1.0))
    tokens = torch.randn(2, 12, 16)
    torch.testing.assert_close(kind.embed(tokens, 0)[:, 7:], kind.embed(tokens[:, 7:], 7))
    whole, part = kind.rotation(12, 0), kind.rotation(5, 7)
    if name == "rotary":
        torch.testing.assert_close(tuple(half[7:] for half in whole), part)
    else:
        assert whole is None
        assert part is None


@pytest.mark.parametrize("name", KINDS)
def test_too_many_tokens_are_refused_with_both_figures(name):
    with pytest.raises(ValueError, match="13 tokens do not fit a context of 12"):
        positions(name, Place(12, 16, 2, 1.0)).embed(torch.zeros(1, 3, 16), 10)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'alibi' are unknown: choose one of sinusoidal, learned, rotary"):
        positions("alibi", Place(12, 16, 2, 1.0))
