"""What people see: lines, live curves across a kill, and a trace; and that none of it changes what a run leaves."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from components.training import monitor as monitor_module
from components.training.fit import fit
from components.training.monitor import Monitor
from components.training.rehearsal import rehearse
from components.training.state import State
from tests.components.training.toy import Batch, Regression, StackedRegression, batches, config, equal


class Texts(Regression):
    def units(self, batch: Batch) -> dict[str, int]:
        return {"tokens": batch[0].numel()}


class Cut(Exception):
    pass


def cut_at(number: int) -> Iterator[Batch]:
    def stream(start: int) -> Iterator[Batch]:
        for place, batch in enumerate(batches(4)(start), start):
            if place == number:
                raise Cut
            yield batch

    return stream  # type: ignore[return-value]


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads, by tag."""
    reader = EventAccumulator(str(folder / "tensorboard"), purge_orphaned_data=True).Reload()
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_tensorboard_reads_the_curves_and_a_kill_leaves_no_point_twice(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        fit(Texts(), cut_at(13), config(), checkpoints=tmp_path)  # points up to step 12, a checkpoint of step 10
    assert points(tmp_path)["train/loss"][-1][0] == 12
    history = fit(Texts(), batches(4), config(), checkpoints=tmp_path)
    read = points(tmp_path)
    for tag, name in (("train/loss", "loss"), ("train/gradient_norm", "gradient_norm"), ("valid/loss", "valid_loss")):
        expected = [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in history.rows if name in row]
        assert read[tag] == expected
    speeds = {"speed/examples_per_second", "speed/tokens_per_second", "speed/flops_per_second", "memory/peak_bytes"}
    assert speeds <= read.keys()
    assert not any("second" in name or "memory" in name for row in history.rows for name in row)


def test_a_run_that_starts_afresh_has_its_own_curves(tmp_path: Path) -> None:
    fit(Texts(), batches(4), config(), checkpoints=tmp_path)
    fit(Texts(), batches(4), config(steps=8), checkpoints=tmp_path)
    assert [step for step, _ in points(tmp_path)["train/loss"]] == [3, 6, 8]


def test_a_line_has_units_and_utilisation_once_the_ceiling_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    task, settings = Texts(), config()
    with Monitor(task, State.begin(task.model, settings), settings, tmp_path) as monitor:
        stream = monitor.watch(batches(4)(0))
        next(stream)
        monitor.state.step, monitor.ceiling = 1, 1e12
        monitor.line(loss=0.5)
    said = capsys.readouterr().out
    assert "memory of a step, expected: " in said
    assert all(part in said for part in ("step 1/20", "loss 0.5", " tokens/s", " GFLOP/s (", "% of matmul)", " MB"))


def watched(task: Regression, folder: Path, count: int) -> Monitor:
    """After so many batches, of 4 and 8 examples in turn."""
    settings = config()
    folder.mkdir()
    with Monitor(task, State.begin(task.model, settings), settings, folder) as monitor:
        stream = monitor.watch(next(batches(4 * (1 + number % 2))(number)) for number in range(count))
        assert len(list(stream)) == count
    return monitor


def test_flops_follow_the_units_of_batches_of_mixed_length(tmp_path: Path) -> None:
    """All of this model's FLOPs are in proportion to its tokens: 4 + 8 + 4 + 8 examples cost six times the first 4."""
    totals = watched(Texts(), tmp_path / "run", 4).totals
    assert totals["tokens"] == 24 * 4
    assert totals["flops"] == 6 * rehearse(Texts(), next(batches(4)(0)), config()).flops


def test_flops_are_left_out_where_shapes_vary_and_nothing_says_how_much(tmp_path: Path) -> None:
    assert watched(Regression(), tmp_path / "one", 1).totals["flops"] > 0
    assert "flops" not in watched(Regression(), tmp_path / "two", 3).totals


@pytest.mark.parametrize(("activations", "kind"), [("keep", ""), ("recompute", "hardware_")])
def test_the_share_of_the_ceiling_is_in_the_live_curves(
    activations: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured by itself, and named apart where what is computed again counts as work."""
    monkeypatch.setattr(monitor_module, "LONG", 0.0)
    fit(StackedRegression(), batches(4), config(activations=activations), checkpoints=tmp_path)
    read = points(tmp_path)
    shares, flops = read[f"speed/{kind}share_of_matmul"], read["speed/flops_per_second"]
    assert [step for step, _ in shares] == [step for step, _ in flops]
    ceilings = [rate / share for (_, rate), (_, share) in zip(flops, shares, strict=True)]
    assert ceilings == pytest.approx([ceilings[0]] * len(ceilings), rel=1e-4)  # one, measured once
    assert 1e7 < ceilings[0] < 1e13
    assert {tag for tag in read if "matmul" in tag} == {f"speed/{kind}share_of_matmul"}


def test_a_trace_is_left_and_changes_no_bit(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    traced, plain = Regression(dropout=0.3), Regression(dropout=0.3)
    first = fit(traced, batches(4), config(profile=2), checkpoints=tmp_path)
    second = fit(plain, batches(4), config(), checkpoints=None)
    assert equal(traced.model, plain.model) and first.rows == second.rows
    with gzip.open(tmp_path / "profile" / "trace.json.gz", "rt") as file:
        names = [event.get("name") for event in json.load(file)["traceEvents"]]
    assert names.count("ProfilerStep#4") and names.count("ProfilerStep#5") and not names.count("ProfilerStep#6")
    said = capsys.readouterr().out
    assert "aten::addmm" in said and "ui.perfetto.dev" in said
