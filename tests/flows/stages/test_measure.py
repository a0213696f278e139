"""The stages that measure, run for real at their smallest: every row is there, pictures are drawn, memory is paid."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from components.decoders.rivals import rival
from components.evaluation.measure import in_fresh_process, machine
from flows.params import read
from flows.stages import equal, measure_attention, measure_engine, measure_gradients, measure_recurrence, runtime
from flows.stages.runtime import execute

PARAMS = """
measure_attention:
  small: {group: core, lengths: [64, 1024], explicit: 1024, rounds: 2, kinds: [softmax, local], heads: 2, features: 16,
          width_at: 64}
measure_recurrence:
  small: {group: core, models: [transformer, lstm, gru], transformer: {width: 64, depth: 1, heads: 2}, vocabulary: 16,
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
      options: [bf16, fp16, selective, recompute, accumulation]
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


def attention() -> list[dict[str, Any]]:
    measure_attention.SHORT = 0.0  # one pass a figure: no time is asserted here
    return measured(measure_attention)


def engine() -> list[dict[str, Any]]:
    return measured(measure_engine)


def test_attention_is_measured_at_every_length_width_and_number_of_heads() -> None:
    rows = in_fresh_process(attention)  # as a stage runs: what other tests have freed would count
    cells = {(row["attention"], row["length"]) for row in rows if row["table"] == "length"}
    assert cells == {(kind, length) for kind in ("softmax", "local", "explicit") for length in (64, 1024)}
    assert {row["width"] for row in rows if row["table"] == "width"} == {16, 32, 64, 128}
    assert {row["heads"] for row in rows if row["table"] == "heads"} == {1, 2, 4, 8}
    assert all(row["seconds"] > 0 for row in rows)
    assert len(rows) == 2 * (6 + 4 + 4)
    assert {(row["device"], row["machine"]) for row in rows} == {tuple(machine("cpu").values())}
    peak = {row["attention"]: row["peak_bytes"] for row in rows if row.get("length") == 1024}
    matrix = 2 * 1024**2 * 4  # bytes of the weights of two heads
    assert peak["explicit"] >= 2 * matrix  # they, and their gradient
    assert peak["softmax"] < matrix / 2 and peak["local"] < matrix / 2


@pytest.mark.parametrize("stage", [measure_recurrence, measure_gradients], ids=lambda stage: stage.__name__)
def test_recurrent_nets_have_the_transformers_parameters_or_are_refused(stage: Any, monkeypatch, capsys) -> None:
    sizes = {row["model"]: row["parameters"] for row in measured(stage) if "parameters" in row}
    assert {"transformer", "lstm"} <= sizes.keys()
    for size in sizes.values():
        assert size == pytest.approx(sizes["transformer"], rel=equal.EQUAL)
    monkeypatch.setattr(equal, "EQUAL", 0.0)
    name = stage.__name__.rpartition(".")[2]
    assert execute(name, "small", stage.Params, stage.cost, stage.run, name) == 1
    assert "no lstm has within 0% of the Transformer's" in capsys.readouterr().err


def test_recurrence_is_measured_at_every_length() -> None:
    rows = measured(measure_recurrence)
    assert len({(row["model"], row["length"], row["round"]) for row in rows}) == len(rows) == 3 * 2 * 2
    assert {(row["device"], row["machine"]) for row in rows} == {tuple(machine("cpu").values())}


@pytest.mark.parametrize("kind", ["transformer", "lstm"])
def test_gradients_by_distance_are_those_of_finite_differences(kind: Any) -> None:
    """Of each text's loss, in double, by each feature of the token so far before the last."""
    params = read("measure_gradients.small", measure_gradients.Params)
    norms = {row["distance"]: row["norm"] for row in measure_gradients.by_distance(params, 1) if row["model"] == kind}
    torch.manual_seed(1)
    model = rival(kind, params.transformer, params.length, params.vocabulary)
    ids = torch.randint(params.vocabulary, (measure_gradients.BATCH, params.length + 1))
    model.double()
    moved = torch.zeros(params.length, model.embedding.embedding_dim, dtype=torch.float64)

    def move(_: Any, __: Any, embedded: torch.Tensor) -> torch.Tensor:
        return embedded + moved

    model.embedding.register_forward_hook(move)

    def losses() -> torch.Tensor:
        with torch.no_grad():
            return F.cross_entropy(model.logits(model.hidden(ids[:, :-1])[:, -1]), ids[:, -1], reduction="none")

    for distance in (1, 16):
        place, slopes = params.length - 1 - distance, []
        for feature in range(moved.shape[1]):
            sides = []
            for step in (1e-5, -1e-5):
                moved[place, feature] = step
                sides.append(losses())
            moved[place, feature] = 0.0
            slopes.append((sides[0] - sides[1]) / 2e-5)
        each = torch.stack(slopes).norm(dim=0)  # a text's
        assert norms[distance] == pytest.approx(each.mean().item() / len(each), rel=1e-3)  # of the mean loss


def test_gradients_grow_by_a_power_of_the_depth_without_norms() -> None:
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
    rows = in_fresh_process(engine)
    losses = {(row["option"], row["seed"]): row["loss"] for row in rows if row["table"] == "loss"}
    assert losses["recompute", 1] == losses["selective", 1] == losses["none", 1]  # to the bit
    assert losses["bf16", 1] == pytest.approx(losses["none", 1], abs=0.02)
    assert losses["fp16", 1] == pytest.approx(losses["none", 1], abs=0.02)
    assert losses["none", 1] not in (losses["bf16", 1], losses["fp16", 1])
    assert losses["accumulation", 1] == pytest.approx(losses["none", 1], abs=1e-3)
    assert losses["none", 1] != losses["none", 2]
    speeds = [row for row in rows if row["table"] == "speed"]
    assert {(row["option"], row["round"]) for row in speeds} == {
        (option, number)
        for option in ("none", "bf16", "fp16", "selective", "recompute", "accumulation")
        for number in (0, 1)
    }
    assert all(row["peak_bytes"] > 0 and row["machine"] == machine("cpu")["machine"] for row in speeds)


@pytest.mark.parametrize(
    ("stage", "right", "wrong", "line"),
    [
        (measure_engine, "batch_size: 8", "batch_size: 6", "batch_size 6 does not divide by the 4 parts of"),
        (measure_attention, "[softmax, local]", "[local]", "kinds local: add softmax, to which others are compared"),
        (measure_attention, "lengths: [64, 1024]", "lengths: [64]", "lengths = [64]: must be a list, each a whole"),
        (measure_recurrence, "lengths: [16, 32]", "lengths: [16]", "lengths = [16]: must be a list, each a whole"),
    ],
)
def test_what_gives_no_comparison_is_one_line(stage: Any, right: str, wrong: str, line: str, capsys) -> None:
    assert right in PARAMS
    Path("params.yaml").write_text(PARAMS.replace(right, wrong))
    name = stage.__name__.rpartition(".")[2]
    assert execute(name, "small", stage.Params, stage.cost, stage.run, name) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1
