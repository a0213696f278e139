"""The schedule against values worked out by hand."""

import math

import pytest

from components.training.schedule import rate


def test_hand_computed_values() -> None:
    rates = [rate(step, steps=8, warmup=3, final_share=0.2) for step in range(8)]
    cosine = [(1 + math.cos(math.pi * n / 5)) / 2 for n in range(5)]
    assert rates == pytest.approx([0.25, 0.5, 0.75] + [0.2 + 0.8 * value for value in cosine])
    assert cosine == pytest.approx([1, 0.904508, 0.654508, 0.345492, 0.095492], abs=1e-6)


def test_no_warmup_starts_at_the_peak_and_ends_towards_the_final_share() -> None:
    assert rate(0, steps=100, warmup=0, final_share=0.1) == 1
    assert rate(99, steps=100, warmup=0, final_share=0.1) == pytest.approx(0.1 + 0.9 * 0.000247, abs=1e-6)
    assert rate(100, steps=100, warmup=0, final_share=0.1) == pytest.approx(0.1)
    assert {rate(step, steps=9, warmup=0, final_share=1.0) for step in range(9)} == {1.0}
