"""What params.yaml states for the study gives every claim of the roadmap its rows, by itself and with the preset."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.stages import study
from flows.stages.claims import attention, distance, engine, recipe
from flows.stages.claims.rows import Rows
from flows.workspace import merge_preset, read_yaml
from tests.flows.stages.study_rows import Row, costs, gradients, options, recall, recurrence

ROOT = Path(__file__).parents[2]
SUBJECTS = (distance, attention, engine, recipe)
Entry = dict[str, Any]
MADE: dict[str, Callable[[Entry], list[Row]]] = {
    "train_recall": lambda entry: recall(entry["models"], entry["distances"], entry["seeds"]),
    "measure_recurrence": lambda entry: recurrence(entry["models"], entry["lengths"], entry["rounds"]),
    "measure_gradients": lambda entry: gradients(entry["depth"], entry["seeds"]),
    "measure_attention": lambda entry: costs(entry["kinds"], entry["lengths"], entry["explicit"], entry["rounds"]),
    "measure_engine": lambda entry: options(
        entry["speed"]["options"], entry["loss"]["options"], entry["rounds"], entry["seeds"]
    ),
}


def factor(entries: dict[str, Entry], key: str) -> list[Row]:
    """Of train_factor, whose variants have their base's seeds."""
    entry, base = entries[key], entries[entries[key]["of"]]
    about = {name: entry.get(name) for name in ("factor", "helps", "claimed")}  # a base has none
    row = {"variant": key, "base": entry["of"], "steps": base["fit"]["steps"]} | about
    return [row | {"seed": seed, "loss": 1 + seed / 1000 + len(key) / 100} for seed in base["seeds"]]


@pytest.fixture(params=["params.yaml alone", "with the preset"])
def shipped(request: pytest.FixtureRequest) -> Any:
    alone = request.param == "params.yaml alone"
    return read_yaml(ROOT / "params.yaml") if alone else merge_preset(ROOT, ROOT / "presets" / "study.yaml")


def found(root: Any, folder: Path) -> dict[str, str]:
    """Claims and their verdicts over the rows that these parameters give."""
    for stage in (*MADE, "train_factor"):
        for key, entry in root[stage].items():
            if entry["group"] == "study":
                rows = MADE[stage](entry) if stage in MADE else factor(root[stage], key)
                (folder / stage / key).mkdir(parents=True)
                (folder / stage / key / "rows.json").write_text(json.dumps(rows))
    rows = Rows(folder, digest=False)
    return {finding.claim: finding.verdict for subject in SUBJECTS for finding in study.judged(subject, rows)}


def test_every_claim_has_rows(shipped: Any, tmp_path: Path) -> None:
    verdicts = found(shipped, tmp_path)
    assert "not measured" not in verdicts.values()
    assert verdicts.keys() == {claim for subject in SUBJECTS for claim in subject.CLAIMS}


def test_an_option_that_is_taken_out_is_missed(shipped: Any, tmp_path: Path) -> None:
    shipped["measure_engine"]["study"]["loss"]["options"].remove("bf16")
    del shipped["train_factor"]["drop_path"]
    verdicts = found(shipped, tmp_path)
    missed = [claim for claim, verdict in verdicts.items() if verdict == "not measured"]
    assert missed == ["Mixed precision keeps stability (bf16)", "Helps: DropPath"]
