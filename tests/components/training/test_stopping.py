"""When patience runs out: where a run stops, what it ends with, and that a kill changes none of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from components.training.fit import History, fit
from tests.components.training.toy import Batch, Regression, batches, config, equal

SCORES = {6: 3.0, 12: 1.0, 18: 2.0, 24: 1.0, 30: 5.0, 36: 0.5}  # by step; an equal one is no better


class Scripted(Regression):
    """Scores follow from how often the optimiser has stepped, which an extra parameter counts."""

    def __init__(self) -> None:
        super().__init__(dropout=0.3)
        self.steps = 0

    def validate(self) -> dict[str, float]:
        return {"score": SCORES[self.steps]}


class Cut(Exception):
    pass


def run(folder: Path | None, patience: int, cut_at: int | None = None) -> tuple[Scripted, History]:
    task = Scripted()

    def stream(start: int) -> Iterator[Batch]:
        for number, batch in enumerate(batches(4)(start), start):
            if number == cut_at:
                raise Cut
            task.steps = number + 1
            yield batch

    settings = config(steps=36, save_every=4, log_every=5, keep="best", patience=patience)
    return task, fit(task, stream, settings, checkpoints=folder)


def test_it_stops_after_so_many_validations_without_a_better_one() -> None:
    history = run(None, patience=2)[1]
    assert (history.stopped, history.step, history.figures) == (24, 12, {"score": 1.0})
    assert [row["step"] for row in history.rows if "valid_score" in row] == [6, 12, 18, 24]
    assert [row["step"] for row in history.rows if "loss" in row] == [5, 10, 15, 20, 24]


@pytest.mark.parametrize(("patience", "stopped", "best"), [(0, 36, 36), (1, 18, 12), (3, 30, 12), (4, 36, 36)])
def test_patience_is_counted_from_the_best(patience: int, stopped: int, best: int) -> None:
    history = run(None, patience)[1]
    assert (history.stopped, history.step) == (stopped, best)


@pytest.mark.parametrize("cut_at", [7, 17, 21, 23])
def test_a_kill_changes_nothing_and_a_stopped_run_is_not_trained_again(tmp_path: Path, cut_at: int) -> None:
    whole, expected = run(None, patience=2)
    with pytest.raises(Cut):
        run(tmp_path, patience=2, cut_at=cut_at)
    for _ in range(2):  # the second finds it finished, and would be cut at any batch
        task, history = run(tmp_path, patience=2, cut_at=None if _ == 0 else 24)
        assert (history.rows, history.step, history.stopped) == (expected.rows, expected.step, expected.stopped)
        assert equal(task.model, whole.model)


def test_patience_needs_the_best_weights() -> None:
    with pytest.raises(ValueError, match="set keep: best"):
        config(patience=2)
