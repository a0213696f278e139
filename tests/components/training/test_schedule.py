"""The schedule against values worked out by hand."""

import math

import pytest

from components.training.schedule import rate
from tests.components.training.toy import config


def test_hand_computed_values() -> None:
    shape = config(steps=8, warmup=3, final_share=0.2)
    rates = [rate(step, shape) for step in range(8)]
    cosine = [(1 + math.cos(math.pi * n / 5)) / 2 for n in range(5)]
    assert rates == pytest.approx([0.25, 0.5, 0.75] + [0.2 + 0.8 * value for value in cosine])
    assert cosine == pytest.approx([1, 0.904508, 0.654508, 0.345492, 0.095492], abs=1e-6)


def test_no_warmup_starts_at_the_peak_and_ends_towards_the_final_share() -> None:
    shape = config(steps=100, warmup=0, final_share=0.1)
    assert rate(0, shape) == 1
    assert rate(99, shape) == pytest.approx(0.1 + 0.9 * 0.000247, abs=1e-6)
    assert rate(100, shape) == pytest.approx(0.1)
    level = config(steps=9, warmup=0, final_share=1.0)
    assert {rate(step, level) for step in range(9)} == {1.0}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.5, 1, 1 - 0.8 / 9, 1 - 0.8 * 2 / 9, 1 - 0.8 * 3 / 9, 1 - 0.8 * 4 / 9]),
        ("wsd", [0.5, 1, 1, 1, 1, 1]),
        ("constant", [0.5, 1, 1, 1, 1, 1]),
    ],
)
def test_other_ways_down(schedule: str, expected: list[float]) -> None:
    shape = config(steps=10, warmup=1, final_share=0.2, schedule=schedule, decay_share=0.4)
    assert [rate(step, shape) for step in range(6)] == pytest.approx(expected)


def test_wsd_falls_over_the_last_share_of_the_run() -> None:
    """10 steps, the last 4 of them falling from 1 to 0.2 in equal parts."""
    shape = config(steps=10, warmup=1, final_share=0.2, schedule="wsd", decay_share=0.4)
    assert [rate(step, shape) for step in range(5, 11)] == pytest.approx([1, 1, 0.8, 0.6, 0.4, 0.2])


def test_a_stable_part_must_fit_between_warmup_and_decay() -> None:
    with pytest.raises(ValueError, match="warmup 8 and a decay_share of 0.3 do not fit into 10 steps"):
        config(steps=10, warmup=8, schedule="wsd", decay_share=0.3)
