"""What a line says, and that a log does not fill up."""

import io
import json
import sys
import time
from pathlib import Path

import pytest

from components.training.curves import write_curves
from components.training.progress import Progress, clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Time that moves by hand."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Clock:
    ticking = Clock()
    monkeypatch.setattr(time, "monotonic", ticking.monotonic)
    return ticking


def test_a_line_has_step_figures_rate_and_time_left(ticking: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    progress = Progress(start=1000, steps=5000, examples=32)
    ticking.now += 20  # 200 steps in 20 s: 10 a second, 3800 left
    progress.show(1200, {"loss": 0.51234, "valid_accuracy": 0.875})
    assert stream.getvalue() == "step 1,200/5,000  loss 0.5123  valid accuracy 0.875  320 examples/s  6:20 left\n"


def test_a_log_gets_a_line_every_five_seconds_however_fast_the_steps_are(
    ticking: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    progress = Progress(start=0, steps=100_000, examples=1)
    for step in range(1, 60_001):  # a minute
        ticking.now += 0.001
        if progress.due():
            progress.show(step, {})
    assert stream.getvalue().count("\n") == 12


def test_a_terminal_redraws_one_line_and_ends_it(ticking: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    progress = Progress(start=0, steps=10, examples=1)
    for step, figures in ((1, {"loss": 123.4}), (2, {"loss": 1.0})):
        ticking.now += 1
        assert progress.due()
        progress.show(step, figures)
    progress.show(10, {}, last=True)
    lines = stream.getvalue().split("\r")[1:]
    assert [line.rstrip() for line in lines[:2]] == [
        "step 1/10  loss 123.4  1 examples/s  0:09 left",
        "step 2/10  loss 1  1 examples/s  0:08 left",
    ]
    assert len(lines[1]) == len(lines[0])  # nothing of the longer line stays
    assert stream.getvalue().endswith("\n") and stream.getvalue().count("\n") == 1


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0.0, 59.6, 3599.0, 3600.0, 90_061.0)] == [
        "0:00", "1:00", "59:59", "1:00:00", "25:01:01"
    ]  # fmt: skip


def test_curves_are_the_same_bytes_each_time_and_one_point_a_line(tmp_path: Path) -> None:
    rows = [{"step": 5, "loss": 1.5, "accuracy": 0.1}, {"step": 5, "valid_loss": 1.25}, {"step": 10, "loss": 1 / 3}]
    for name in "ab":
        write_curves(tmp_path / name, rows)
    for name in ("curves.jsonl", "curves.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert [json.loads(line) for line in (tmp_path / "a" / "curves.jsonl").read_text().splitlines()] == rows
    assert (tmp_path / "a" / "curves.png").read_bytes().startswith(b"\x89PNG")
