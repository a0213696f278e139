"""The study's page: claims judged from rows whose figures are known, and a page that shows them all."""

import json
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from flows.stages import study
from flows.stages.claims import attention, distance, engine, recipe
from flows.stages.claims.rows import Rows
from flows.stages.runtime import Stage, StageError
from tests.flows.stages.study_rows import Row, costs, gradients, options, recall, recurrence

MODELS = ("transformer", "lstm", "gru")
KINDS = ("softmax", "local", "block_sparse", "linformer", "performer")
LENGTHS = (512, 1024, 2048)
WRITTEN = {
    "train_recall": recall(MODELS, (16, 512), (1, 2, 3)),
    "measure_recurrence": recurrence(MODELS, LENGTHS, 3),
    "measure_gradients": gradients(10, (1, 2)),
    "measure_attention": costs(KINDS, LENGTHS, 2048, 3),
    "measure_engine": options(("bf16", "recompute", "selective"), ("bf16", "fp16", "accumulation"), 3, (1, 2, 3)),
}


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.chdir(tmp_path)
    for name, rows in WRITTEN.items():
        folder = tmp_path / "reports" / name / "study"
        folder.mkdir(parents=True)
        (folder / "rows.json").write_text(json.dumps(rows))
        (folder / "figure.png").write_bytes(b"a picture of " + name.encode())
    return Stage("study", "", study.Params("A <title>"), tmp_path)


def rewrite(stage: Stage, name: str, rows: list[Row]) -> None:
    (stage.root / "reports" / name / "study" / "rows.json").write_text(json.dumps(rows))


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


@pytest.mark.parametrize(
    ("slower", "larger", "verdict"),
    [(2.0, 50.0, "holds"), (2.0, 0.9, "does not hold here"), (0.5, 50.0, "does not hold here")],
)
def test_flash_must_save_both_time_and_memory(stage: Stage, slower: float, larger: float, verdict: str) -> None:
    rewrite(stage, "measure_attention", costs(KINDS, LENGTHS, 2048, 3, slower, larger))
    assert verdicts(stage, attention)["Flash attention saves time and memory"] == verdict


def test_a_run_on_a_gpu_judges_memory_traffic_by_the_time_that_it_saves(stage: Stage) -> None:
    for slower, verdict in ((2.0, "holds"), (0.5, "does not hold here")):
        rewrite(stage, "measure_attention", costs(KINDS, LENGTHS, 2048, 3, slower, device="cuda"))
        assert verdicts(stage, attention)["Flash attention saves memory traffic"] == verdict


def test_claims_about_the_engine(stage: Stage) -> None:
    assert verdicts(stage, engine) == {
        "Mixed precision doubles speed": "holds",
        "Mixed precision keeps stability (bf16)": "holds",
        "Mixed precision keeps stability (fp16 with loss scaling)": "holds",
        "Accumulation reproduces large batches": "does not hold here",
        "Checkpointing trades time for memory": "holds",
        "Selective checkpointing trades time for memory": "does not hold here",
    }


def test_checkpointing_tells_the_interval_of_its_time(stage: Stage) -> None:
    rows = options(("recompute",), (), 3, (1, 2))
    for row in rows:
        if row["option"] == "recompute":
            row["seconds"] *= (1.2 / 1.3, 1.0, 1.4 / 1.3)[row["round"]]
    rewrite(stage, "measure_engine", rows)
    [finding] = engine.findings(Rows(stage.root / "reports", digest=False))
    # logarithms of 1.2, 1.3, 1.4: mean 0.2604, deviation 0.0771, t(2) = 4.3027
    assert finding.figure.endswith("a step takes 1.30 times as long (1.07 to 1.57)")


def test_a_claim_without_rows_is_listed_as_not_measured(stage: Stage) -> None:
    rewrite(stage, "measure_engine", options(("recompute",), ("accumulation",), 3, (1, 2, 3)))
    rewrite(stage, "train_recall", recall(("transformer",), (512,), (1, 2, 3)))
    study.run(stage.params, stage)
    listed = json.loads((stage.root / "reports" / "study" / "verdicts.json").read_text())
    missing = [each["claim"] for each in listed if each["verdict"] == "not measured"]
    assert missing == [
        "Recurrent nets lose far information, Transformers do not",
        "Mixed precision doubles speed",
        "Mixed precision keeps stability (bf16)",
        "Mixed precision keeps stability (fp16 with loss scaling)",
        "Selective checkpointing trades time for memory",
        *recipe.CLAIMS,
    ]
    page = (stage.root / "reports" / "study" / "study.html").read_text()
    assert f"not measured: {len(missing)}" in page
    assert '<a href="#measure_engine">' in page and '<a href="#train_factor">' not in page


def test_the_digest_lists_what_it_measured_and_no_more(stage: Stage) -> None:
    (stage.root / "reports" / "measure_engine" / "study").rename(stage.root / "reports" / "measure_engine" / "digest")
    digest = Stage("digest", "", study.Params("A title"), stage.root)
    study.run(digest.params, digest)
    listed = json.loads((stage.root / "reports" / "digest" / "verdicts.json").read_text())
    assert {each["claim"] for each in listed} == engine.CLAIMS.keys()


def test_the_page_shows_every_verdict_table_and_picture(stage: Stage) -> None:
    study.run(stage.params, stage)
    page = (stage.root / "reports" / "study" / "study.html").read_text()
    assert "A &lt;title&gt;" in page
    assert page.count("data:image/png;base64") == len(WRITTEN)
    listed = json.loads((stage.root / "reports" / "study" / "verdicts.json").read_text())
    assert all(escape(each["claim"]) in page for each in listed)
    assert "98.0%" in page  # recall of the Transformer at 512
    assert "70,011" in page and "12,345" in page  # parameters of the Transformer, and of what gradients travel in
    assert "40.0 ms" in page and "1,080.0 ms" in page  # by width, at 256 features; by heads, at four
    assert "5.2e-07" in page  # the gradient at the first of ten blocks with neither: 0.2^9, times 1.015 over two seeds
    assert page.count("measured on a quick processor, 1 thread, torch 2.") == 1
    machines = {each["stage"]: each["machine"] for each in listed}
    assert machines["measure_engine"] == "a quick processor, 1 thread, torch 2" and machines["train_recall"] == ""
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
