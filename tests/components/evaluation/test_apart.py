"""A measurement apart: its state stays between calls, its errors come home, and it ends with its context."""

import os
import signal

import pytest

from components.evaluation.apart import Apart


def counter():
    calls = []

    def run() -> tuple[int, int]:
        calls.append(None)
        return os.getpid(), len(calls)

    return run


def test_it_is_another_process_that_stays():
    with Apart(counter) as there:
        first, second = there(), there()
    assert first[0] == second[0] != os.getpid()
    assert (first[1], second[1]) == (1, 2)


def test_an_error_there_is_raised_here():
    with Apart(lambda: lambda: [][0]) as there, pytest.raises(RuntimeError, match="IndexError: list index"):
        there()


def test_a_process_that_is_killed_says_so():
    with (
        Apart(lambda: lambda: os.kill(os.getpid(), signal.SIGKILL)) as there,
        pytest.raises(RuntimeError, match="ended with status -9"),
    ):
        there()
