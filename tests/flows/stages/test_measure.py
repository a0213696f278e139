"""The stages that measure, run for real at their smallest: every row is there, pictures are drawn, memory is paid."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.stages import measure_attention, measure_engine, measure_gradients, measure_recurrence, runtime
from flows.stages.runtime import execute

PARAMS = """
measure_attention:
  small: {group: core, lengths: [64, 128], explicit: 64, rounds: 2, kinds: [softmax, local], heads: 2, features: 16,
          width_at: 64}
measure_recurrence:
  small: {group: core, models: [transformer, lstm, gru], transformer: {width: 32, depth: 1, heads: 2}, vocabulary: 16,
          lengths: [16, 32], batch_size: 1, rounds: 2}
measure_gradients:
  small: {group: core, models: [transformer, lstm], transformer: {width: 32, depth: 1, heads: 2}, vocabulary: 16,
          length: 33, depth: 6, seeds: [1, 2]}
measure_engine:
  small:
    group: core
    speed: &side
      decoder: {context: 32, transformer: {width: 32, depth: 2, heads: 2}}
      vocabulary: 32
      fit: {steps: 4, batch_size: 8, learning_rate: 0.003, warmup: 0, validate_every: 4, save_every: 4, seed: 1}
      options: [recompute, accumulation]
    loss: *side
    rounds: 2
    seeds: [1, 2]
"""


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in runtime.THREAD_VARIABLES:
        monkeypatch.setenv(variable, "1")
    Path("params.yaml").write_text(PARAMS)


def measured(stage: Any) -> list[dict[str, Any]]:
    name = stage.__name__.rpartition(".")[2]
    assert execute(name, "small", stage.Params, stage.cost, stage.run, name) == 0
    folder = Path("reports") / name / "small"
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "metrics.json").read_text())
    return json.loads((folder / "rows.json").read_text())


def test_attention_is_measured_at_every_length_width_and_number_of_heads() -> None:
    rows = measured(measure_attention)
    cells = {(row["attention"], row["length"]) for row in rows if row["table"] == "length"}
    assert cells == {("softmax", 64), ("softmax", 128), ("local", 64), ("local", 128), ("explicit", 64)}
    assert {row["width"] for row in rows if row["table"] == "width"} == {16, 32, 64, 128}
    assert {row["heads"] for row in rows if row["table"] == "heads"} == {1, 2, 4, 8}
    assert all(row["seconds"] > 0 for row in rows)
    assert len(rows) == 2 * (5 + 4 + 4)


def test_recurrent_nets_have_the_transformers_parameters() -> None:
    rows = measured(measure_recurrence)
    sizes = {row["model"]: row["parameters"] for row in rows}
    assert sizes["lstm"] == pytest.approx(sizes["transformer"], rel=0.05)
    assert sizes["gru"] == pytest.approx(sizes["transformer"], rel=0.05)
    assert len(rows) == 3 * 2 * 2


def test_gradients_are_those_of_finite_differences_in_kind() -> None:
    rows = measured(measure_gradients)
    distances = {row["distance"] for row in rows if row["table"] == "distance"}
    assert distances == {1, 2, 4, 8, 16, 32}
    depth = {(row["variant"], row["block"], row["seed"]): row["norm"] for row in rows if row["table"] == "depth"}
    assert len(depth) == 4 * 6 * 2
    # x + f(x) without norms, each branch as large as x: the gradient grows by a power of the depth
    assert depth["residual", 0, 1] > 10 * depth["residual", 5, 1]
    again = Path("reports/measure_gradients/small/rows.json").read_bytes()
    measured(measure_gradients)
    assert Path("reports/measure_gradients/small/rows.json").read_bytes() == again


def test_the_engine_is_measured_one_option_at_a_time() -> None:
    rows = measured(measure_engine)
    losses = {(row["option"], row["seed"]): row["loss"] for row in rows if row["table"] == "loss"}
    assert losses["recompute", 1] == losses["none", 1]  # to the bit
    assert losses["accumulation", 1] == pytest.approx(losses["none", 1], abs=1e-3)
    assert losses["none", 1] != losses["none", 2]
    speeds = [row for row in rows if row["table"] == "speed"]
    assert {(row["option"], row["round"]) for row in speeds} == {
        (option, number) for option in ("none", "recompute", "accumulation") for number in (0, 1)
    }


def test_a_batch_that_does_not_divide_into_micro_batches_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").write_text(PARAMS.replace("batch_size: 8", "batch_size: 6"))
    stage = measure_engine
    assert execute("measure_engine", "small", stage.Params, stage.cost, stage.run, "measure_engine") == 2
    assert "batch_size 6 does not divide by the 4 parts of accumulation" in capsys.readouterr().err
