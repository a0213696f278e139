"""Verdicts: Student's interval by hand, ratios by their logarithms, and every side of a threshold."""

import math

import pytest

from components.evaluation.bootstrap import Interval
from components.evaluation.verdicts import judge, mean, slope


def test_the_interval_of_three_paired_figures_by_hand():
    found = mean([0.1, 0.2, 0.6])  # mean 0.3, deviation 0.2646, t(2) = 4.3027
    half = 4.302653 * 0.2645751 / math.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.3 - half, 0.3 + half))


def test_ratios_have_a_geometric_mean_and_twice_is_as_far_as_half():
    found, turned = mean([2.0, 8.0, 4.0], ratio=True), mean([0.5, 0.125, 0.25], ratio=True)
    assert found.value == pytest.approx(4.0)
    assert (turned.low, turned.high) == pytest.approx((1 / found.high, 1 / found.low))


def test_one_figure_has_no_interval():
    with pytest.raises(ValueError, match="1 figure gives no interval"):
        mean([1.0])


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.5, 0.1, 0.9), "holds"),
        ((0.5, -0.1, 0.9), "undecided here"),
        ((0.9, 0.5, 1.3), "undecided here"),
        ((-0.5, -0.9, -0.1), "does not hold here"),
        ((1.5, 1.1, 1.9), "does not hold here"),
        ((0.5, -1.0, 2.0), "undecided here"),
    ],
)
def test_a_claim_holds_only_where_the_whole_interval_does(interval, verdict):
    assert judge(Interval(*interval), low=0, high=1) == verdict


def test_the_exponent_of_a_power():
    assert slope([1, 2, 4, 8], [3.0 * x**1.7 for x in (1, 2, 4, 8)]) == pytest.approx(1.7)
