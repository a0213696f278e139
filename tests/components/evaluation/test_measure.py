"""What is measured, against work whose size is known."""

import os

import pytest
import torch

from components.evaluation.measure import in_fresh_process, peak_memory, seconds

MIB = 2**20


def held(mib: int) -> torch.Tensor:
    return torch.ones(mib * MIB // 4)


def peak_of_two_kinds() -> tuple[int, int, int]:
    """Twice the same work, so that pages kept from the first would hide the second; then a smaller one."""
    work = (lambda: held(64), lambda: held(64), lambda: (held(16), held(16)))
    first, second, third = (peak_memory(each) for each in work)
    return first, second, third


def test_the_peak_is_what_was_held_at_once():
    first, second, third = in_fresh_process(peak_of_two_kinds)
    assert first == pytest.approx(64 * MIB, rel=0.1)
    assert second == pytest.approx(64 * MIB, rel=0.1)
    assert third == pytest.approx(32 * MIB, rel=0.1)


def test_a_fresh_process_is_another_one():
    assert in_fresh_process(os.getpid) != os.getpid()


def test_an_error_comes_back():
    with pytest.raises(ValueError, match="invalid literal"):
        in_fresh_process(int, "seven")


def test_the_least_time_counts():
    clock = iter((0.0, 3.0, 10.0, 12.0, 20.0, 24.0))
    assert seconds(lambda: None, repeat=3, clock=lambda: next(clock)) == 2.0
