"""The study's page: claims judged from rows whose figures are known, and a page that shows them all."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.stages import study
from flows.stages.claims import attention, distance, engine, recipe
from flows.stages.claims.rows import Rows
from flows.stages.runtime import Stage, StageError

NOISE = (0.99, 1.0, 1.01)
LENGTHS = (512, 1024, 2048)
COST = {"softmax": 2, "local": 1, "block_sparse": 1, "linformer": 1, "performer": 1.5, "explicit": 2}


def recall() -> list[dict[str, Any]]:
    share = {"transformer": 0.98, "lstm": 0.3, "gru": 0.4}
    return [
        {"model": model, "distance": far, "seed": seed, "accuracy": near if far == 512 else 1.0, "chance": 0.125}
        for model, near in share.items()
        for far in (16, 512)
        for seed in (1, 2, 3)
    ]


def recurrence() -> list[dict[str, Any]]:
    power = {"transformer": 1.6, "lstm": 1.0, "gru": 1.0}
    return [
        {"model": model, "length": length, "round": number, "seconds": noise * length**exponent / 1e5}
        for model, exponent in power.items()
        for length in LENGTHS
        for number, noise in enumerate(NOISE)
    ]


def gradients() -> list[dict[str, Any]]:
    drift = {"both": 1.0, "residual": 3.0, "norm": 1.0, "neither": 0.2}
    deep = [
        {
            "table": "depth",
            "variant": name,
            "block": block,
            "seed": seed,
            "norm": each ** (9 - block) * (1 + seed / 100),
        }
        for name, each in drift.items()
        for block in range(10)
        for seed in (1, 2)
    ]
    far = [{"table": "distance", "model": "lstm", "distance": 2, "seed": seed, "norm": 0.1} for seed in (1, 2)]
    return deep + far


def costs() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            "table": "length",
            "attention": kind,
            "length": length,
            "round": number,
            "seconds": noise * (length / 512) ** power / (1 if kind in ("softmax", "explicit") else 3),
            "peak_bytes": 50 * length if kind == "explicit" else length,
        }
        for kind, power in COST.items()
        for length in LENGTHS
        for number, noise in enumerate(NOISE)
    ]
    for number, noise in enumerate(NOISE):
        rows += [{"table": "width", "width": 64 * h, "round": number, "seconds": noise * h} for h in (1, 2, 4)]
        rows += [{"table": "heads", "heads": h, "round": number, "seconds": noise * (1 + h / 50)} for h in (1, 2, 4)]
    return rows


def options() -> list[dict[str, Any]]:
    time = {"none": 1.0, "bf16": 0.4, "recompute": 1.3, "selective": 0.9}
    memory = {"none": 100, "bf16": 60, "recompute": 40, "selective": 70}
    speed = [
        {"table": "speed", "option": option, "round": n, "seconds": noise * time[option], "peak_bytes": memory[option]}
        for option in time
        for n, noise in enumerate(NOISE)
    ]
    loss = {"none": 0.0, "bf16": 0.001, "accumulation": 0.3}
    return speed + [
        {"table": "loss", "option": option, "seed": seed, "loss": 2 + seed / 10 + more * (1 + seed / 50)}
        for option, more in loss.items()
        for seed in (1, 2, 3)
    ]


WRITTEN = {
    "train_recall": recall,
    "measure_recurrence": recurrence,
    "measure_gradients": gradients,
    "measure_attention": costs,
    "measure_engine": options,
}


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.chdir(tmp_path)
    for name, rows in WRITTEN.items():
        folder = tmp_path / "reports" / name / "study"
        folder.mkdir(parents=True)
        (folder / "rows.json").write_text(json.dumps(rows()))
        (folder / "figure.png").write_bytes(b"a picture of " + name.encode())
    return Stage("study", "", study.Params("A <title>"), tmp_path)


def verdicts(stage: Stage, subject: Any) -> dict[str, str]:
    return {each.claim: each.verdict for each in subject.findings(Rows(stage.root / "reports", digest=False))}


def test_claims_about_distance(stage: Stage) -> None:
    assert verdicts(stage, distance) == {
        "Self-attention reaches any distance in one step": "holds",
        "Recurrent nets lose far information, Transformers do not": "holds",
        "Recurrent nets train in time proportional to length (LSTM)": "holds",
        "Recurrent nets train in time proportional to length (GRU)": "holds",
        "Residuals and LayerNorm keep gradients stable (against neither)": "holds",
        "Residuals and LayerNorm keep gradients stable (against no residual path)": "undecided here",
        "Residuals and LayerNorm keep gradients stable (against no LayerNorm)": "holds",
    }


def test_claims_about_attention(stage: Stage) -> None:
    assert verdicts(stage, attention) == {
        "The cost of attention grows as n²": "holds",
        "... and as d": "holds",
        "Heads of d_model/h cost the same as one": "holds",
        "Linformer makes cost linear": "holds",
        "Performer makes cost linear": "does not hold here",
        "Flash attention saves time and memory": "undecided here",
        "Flash attention saves memory traffic": "needs a GPU",
        "Local attention cuts work": "holds",
        "Sparse attention cuts work": "holds",
    }


def test_claims_about_the_engine(stage: Stage) -> None:
    assert verdicts(stage, engine) == {
        "Mixed precision doubles speed": "holds",
        "Mixed precision keeps stability (bf16)": "holds",
        "Mixed precision keeps stability (fp16 with loss scaling)": "needs a GPU",
        "Accumulation reproduces large batches": "does not hold here",
        "Checkpointing trades time for memory": "holds",
        "Selective checkpointing trades time for memory": "does not hold here",
    }


def test_the_page_shows_every_verdict_table_and_picture(stage: Stage) -> None:
    study.run(stage.params, stage)
    page = (stage.root / "reports" / "study" / "study.html").read_text()
    assert "A &lt;title&gt;" in page
    assert page.count("data:image/png;base64") == len(WRITTEN)
    listed = json.loads((stage.root / "reports" / "study" / "verdicts.json").read_text())
    assert all(each["claim"] in page for each in listed)
    assert "98.0%" in page  # recall of the Transformer at 512
    counted = json.loads((stage.root / "reports" / "study" / "metrics.json").read_text())
    assert sum(counted.values()) == len(listed)


def test_without_rows_there_is_no_page(stage: Stage) -> None:
    empty = Stage("digest", "", study.Params("A title"), stage.root)  # its own key has none
    with pytest.raises(StageError, match="no stage of the study has written rows"):
        study.run(empty.params, empty)
    assert not list(stage.root.glob("reports/digest/*.html"))


def test_a_factor_is_judged_on_the_side_that_is_said_to_help(stage: Stage) -> None:
    losses = {"plain": 1.0, "dropout": 0.9, "unscheduled": 1.2, "smoothing": 1.1, "rotary": 0.5}
    for name, loss in losses.items():
        folder = stage.root / "reports" / "train_factor" / name
        folder.mkdir(parents=True)
        about = {"variant": name, "base": "plain", "factor": name.capitalize(), "steps": 10}
        about |= {"helps": "base" if name == "unscheduled" else "variant", "claimed": name != "rotary"}
        rows = [about | {"seed": seed, "loss": loss * (1 + seed / 1000)} for seed in (1, 2)]
        (folder / "rows.json").write_text(json.dumps(rows))
    assert verdicts(stage, recipe) == {
        "Helps: Dropout": "holds",
        "Helps: Unscheduled": "holds",
        "Helps: Smoothing": "does not hold here",
    }
    [table] = recipe.tables(Rows(stage.root / "reports", digest=False))
    assert ["rotary", "plain", "0.5008"] in [line[:3] for line in table.lines]  # compared, but nobody claims it
