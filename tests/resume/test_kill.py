"""A few of the kills of kill.py, which does as many as one likes."""

from pathlib import Path

from tests.resume.kill import trials


def test_killed_runs_end_with_the_same_bits(tmp_path: Path) -> None:
    outcomes = trials(kills=3, seed=1, folder=tmp_path)
    assert [outcome.equal for outcome in outcomes] == [True] * 3
    assert all(outcome.step > 0 for outcome in outcomes)
