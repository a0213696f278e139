"""train_recall and train_long for real, on few short sequences: rows, fairness, repeated bytes, refusals in a line."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows.stages import equal, runtime, train_long, train_recall
from flows.stages.runtime import execute

FIT = {"steps": 120, "batch_size": 8, "learning_rate": 0.005, "warmup": 20, "validate_every": 120, "save_every": 60}
COMMON = {"group": "core", "fit": {**FIT, "seed": 9}, "seeds": [1, 2], "values": 4, "noise": 4, "held_out": 64}
RECALL = {
    **COMMON,
    "models": ["transformer", "gru"],
    "transformer": {"width": 64, "depth": 1, "heads": 2},
    "distances": [3, 6],
}
LONG = {**COMMON, "transformer": {"width": 32, "depth": 1, "heads": 2}, "lengths": [12, 24]}


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in runtime.THREAD_VARIABLES:
        monkeypatch.setenv(variable, "1")


def run(module, params: dict[str, Any]) -> int:
    name = module.__name__.rpartition(".")[2]
    with open("params.yaml", "w", encoding="utf-8") as file:
        YAML().dump({name: {"key": params}}, file)
    return execute(name, "key", module.Params, module.cost, module.run, name)


def written(stage: str, name: str = "rows.json") -> Any:
    return json.loads(Path(f"reports/{stage}/key/{name}").read_text())


def test_models_of_one_size_recall_from_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(train_recall, RECALL) == 0
    rows = written("train_recall")
    keys = {(row["distance"], row["seed"], row["model"]) for row in rows}
    assert keys == {(d, seed, model) for d in (3, 6) for seed in (1, 2) for model in RECALL["models"]}
    assert {(row["chance"], row["steps"]) for row in rows} == {(0.25, 120)}
    assert all(row["accuracy"] > 0.9 for row in rows)
    sizes = {row["model"]: row["parameters"] for row in rows}
    assert sizes["gru"] == pytest.approx(sizes["transformer"], rel=equal.EQUAL)
    means = {f"{model}_at_{d}" for model in RECALL["models"] for d in (3, 6)}
    assert written("train_recall", "metrics.json").keys() == means
    out = capsys.readouterr().out
    assert "train_recall@key: 8 runs of 120 steps, 42,240 tokens in all" in out.splitlines()[0]
    assert "starts afresh" not in out  # one folder of checkpoints for all runs


def test_the_learning_rate_is_that_of_the_model() -> None:
    few = {**RECALL, "distances": [6], "learning_rates": {"gru": 1e-9}}
    assert run(train_recall, few) == 0
    by_model = {row["model"]: row["accuracy"] for row in written("train_recall")}
    assert by_model["transformer"] > 0.9 and by_model["gru"] < 0.6


def test_models_of_unequal_size_are_refused(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(equal, "EQUAL", 0.0)
    assert run(train_recall, RECALL) == 1
    error = capsys.readouterr().err
    assert "no gru has within 0% of the Transformer's" in error and "give the transformer more width" in error
    assert error.count("\n") == 1


def test_a_window_that_spans_little_recalls_little_and_the_whole_recalls_all() -> None:
    assert run(train_long, LONG) == 0
    rows = written("train_long")
    assert [(row["length"], row["seed"]) for row in rows] == [(12, 1), (12, 2), (24, 1), (24, 2)]
    assert all(row["attention"] == "softmax" and row["accuracy"] > 0.9 for row in rows)
    near = {"kind": "local", "window": 2}
    assert run(train_long, {**LONG, "transformer": {**LONG["transformer"], "attention": near}, "lengths": [24]}) == 0
    rows = written("train_long")
    assert all(row["attention"] == "local" for row in rows)
    seen = 2 / 23  # in one layer the query sees two tokens
    assert all(row["accuracy"] < seen + (1 - seen) * row["chance"] + 0.2 for row in rows)


@pytest.mark.parametrize(("module", "params"), [(train_recall, RECALL), (train_long, LONG)])
def test_equal_runs_write_equal_bytes(module, params: dict[str, Any]) -> None:
    short = {**params, "fit": {**params["fit"], "steps": 4, "warmup": 1}}
    name = module.__name__.rpartition(".")[2]
    first = []
    for _ in range(2):
        assert run(module, short) == 0
        first.append({path.name: path.read_bytes() for path in Path(f"reports/{name}/key").iterdir()})
    assert first[0] == first[1]
    assert first[0].keys() == {"rows.json", "figure.png", "metrics.json"}


@pytest.mark.parametrize(
    ("module", "params", "line"),
    [
        (train_recall, {**RECALL, "models": ["rnn"]}, 'models[0] = "rnn": must be one of "transformer", "lstm", "gru"'),
        (train_recall, {**RECALL, "seeds": [1]}, "seeds = [1]: must be a list, each a whole number, at least 0"),
        (train_recall, {**RECALL, "learning_rates": {"gpt": 1.0}}, 'learning_rates key = "gpt": must be one of'),
        (train_long, {**LONG, "lengths": [1]}, "lengths[0] = 1: must be a whole number, at least 2"),
    ],
)
def test_a_wrong_parameter_is_one_line(module, params: dict[str, Any], line: str, capsys) -> None:
    assert run(module, params) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1
