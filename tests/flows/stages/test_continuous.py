"""drift, mix and compare on a classifier that knows one dialect, and one that was retrained on two."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flows.stages import compare, drift, finetune_text, mix, pretrain_text, tokenizer
from tests.flows.stages.small import inside, report, run, serve, split, take_in

FIT = "batch_size: 32, warmup: 5, validate_every: 50, save_every: 50, seed: 1, learning_rate: 0.01"
LINES = "layout: jsonl, fields: {text: text, label: label}, held_out: {valid: {share: 0.2}, test: {share: 0.3}}"
MIXED = "layout: jsonl, path: data/mixed/both, splits: {train: 'train/*', valid: 'valid/*', test: 'test/*'}"
PARAMS = f"""
sources:
  old: {{path: old.jsonl, {LINES}}}
  same: {{path: same.jsonl, {LINES}}}
  new: {{path: new.jsonl, {LINES}}}
  both: {{{MIXED}, fields: {{text: text, label: label, origin: origin}}}}
tokenizer:
  bytes: {{english: old, japanese: old, vocabulary: 262}}
pretrain_text:
  old:
    source: old
    tokenizer: bytes
    encoder: {{context: 24, transformer: {{width: 32, depth: 1, heads: 2}}}}
    fit: {{steps: 10, {FIT}}}
finetune_text:
  old: {{source: old, pretrained: old, dropout: 0.0, fit: {{steps: 60, {FIT}}}}}
  new: {{source: new, pretrained: old, dropout: 0.0, fit: {{steps: 60, {FIT}}}}}
  both: {{source: both, pretrained: old, dropout: 0.0, fit: {{steps: 100, {FIT}}}}}
mix:
  both: {{old: old, new: new, replay: 0.5}}
  all: {{old: old, new: new, replay: 1.0}}
drift:
  same: {{reference: old, new: same, model: models/finetune_text/old}}
  new: {{reference: old, new: new, model: models/finetune_text/old}}
  few: {{reference: old, new: new, model: models/finetune_text/old, permutations: 99}}
compare:
  both: {{champion: models/finetune_text/old, challenger: models/finetune_text/both, frozen: old, fresh: new,
          slices: [label], requests: 10, rule: {{slower: 3.0, larger: 2.0, forget: 0.1}}}}
  new: {{champion: models/finetune_text/old, challenger: models/finetune_text/new, frozen: old, fresh: new,
         requests: 10, rule: {{slower: 3.0, larger: 2.0}}}}
  itself: {{champion: models/finetune_text/old, challenger: models/finetune_text/old, frozen: old, fresh: new,
            requests: 10, rule: {{slower: 3.0}}}}
  origin: {{champion: models/finetune_text/old, challenger: models/finetune_text/both, frozen: both, fresh: new,
            slices: [origin], requests: 10, rule: {{slower: 3.0}}}}
"""
DIALECTS = {"old": ("red", "blue", "green"), "new": ("rosso", "azzurro", "verde")}
LABELS = ("warm", "cold", "fresh")


def lines(dialect: str, count: int, seed: int) -> str:
    """A colour between other words; its name says the label."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        number = rng.randrange(3)
        text = f"{rng.choice('xyz')} {DIALECTS[dialect][number]} {rng.choice('uvw')}"
        rows.append(json.dumps({"text": text, "label": LABELS[number]}) + "\n")
    return "".join(rows)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All sources, the mixture, and three classifiers as a server takes them."""
    root = tmp_path_factory.mktemp("project")
    (root / "params.yaml").write_text(PARAMS)
    with inside(root):
        for seed, (name, dialect, count) in enumerate((("old", "old", 500), ("same", "old", 300), ("new", "new", 300))):
            (root / f"{name}.jsonl").write_text(lines(dialect, count, seed))
            take_in(name)
        assert run(mix, "both") == 0
        take_in("both")
        assert run(tokenizer, "bytes") == run(pretrain_text, "old") == 0
        for name in ("old", "new", "both"):
            assert run(finetune_text, name) == 0
            serve(Path("models/finetune_text", name), "finetune_text", "classifier")
    return root


@pytest.fixture(autouse=True)
def _there(project: Path) -> Iterator[None]:
    with inside(project):
        yield


def test_a_mixture_is_all_that_is_new_and_a_share_of_what_is_old() -> None:
    counts = report("mix", "both", "metrics.json")
    for name in ("train", "valid", "test"):
        old, new, both = (split(source, name) for source in ("old", "new", "both"))
        origins = [record["origin"] for record in both]
        assert origins.count("new") == counts[f"{name}_new"] == len(new)
        assert origins.count("old") == counts[f"{name}_old"]
        if name == "test":
            assert counts["test_old"] == len(old)
        else:
            assert abs(counts[f"{name}_old"] / len(old) - 0.5) < 0.15
        told = {(record["text"], both.classes[record["label"]]) for record in both}
        assert {(record["text"], new.classes[record["label"]]) for record in new} <= told
    assert report("validate", "both", "metrics.json")["bad"] == 0


def test_a_mixture_is_the_same_each_time_and_grows_with_its_share() -> None:
    first = {path.name: path.read_bytes() for path in Path("data/mixed/both").rglob("*.jsonl")}
    assert run(mix, "both") == run(mix, "all") == 0
    assert first == {path.name: path.read_bytes() for path in Path("data/mixed/both").rglob("*.jsonl")}
    some, every = (
        set(Path(f"data/mixed/{key}/train/000000.jsonl").read_text().splitlines()) for key in ("both", "all")
    )
    assert some < every
    assert len(every) == len(split("old", "train")) + len(split("new", "train"))


def test_no_drift_within_one_population_and_one_between_two() -> None:
    assert run(drift, "same") == 0
    assert report("drift", "same", "metrics.json")["drifted"] == 0
    assert run(drift, "new") == 0
    rows = report("drift", "new", "rows.json")
    drifted = {row["feature"] for row in rows if row["drifted"]}
    assert {"rarity of words, bits", "embedding"} <= drifted
    assert not {"words", "label"} & drifted
    assert rows[0]["drifted"], "what has drifted stands first"
    assert Path("reports/drift/new/figure.png").stat().st_size > 10_000
    first = Path("reports/drift/new/rows.json").read_bytes(), Path("reports/drift/new/figure.png").read_bytes()
    assert run(drift, "new") == 0
    assert first == (
        Path("reports/drift/new/rows.json").read_bytes(),
        Path("reports/drift/new/figure.png").read_bytes(),
    )


def test_too_few_permutations_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(drift, "few") == 1
    assert "99 permutations show no drift at alpha 0.01: give 600" in capsys.readouterr().err


def test_who_learned_both_passes_who_forgot_does_not() -> None:
    for key in ("both", "new", "itself"):
        assert run(compare, key) == 0
    both, new, itself = (report("compare", key, "gate.json") for key in ("both", "new", "itself"))
    assert both["passed"], both["reasons"]
    assert both["fresh"]["challenger"] > both["fresh"]["champion"] + 0.3
    assert both["fresh"]["gain"]["low"] > 0
    assert not new["passed"]
    assert new["backward_transfer"] < -0.2
    assert any(reason.startswith("forgets: ") for reason in new["reasons"])
    assert any(reason.startswith("loses in the slice frozen label=") for reason in new["reasons"])
    assert not itself["passed"], "a champion does not beat itself"
    assert itself["fresh"]["gain"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_figures_are_those_of_the_records_one_by_one() -> None:
    import torch

    assert run(compare, "both") == 0
    gate = report("compare", "both", "gate.json")
    records = split("new", "test")
    right = []
    for name in ("old", "both"):
        model = finetune_text.load(Path(f"models/finetune_text/{name}"), torch.device("cpu"))
        right.append(
            [
                model.classes[int(model.classify([record])[0].argmax())] == records.classes[record["label"]]
                for record in records
            ]
        )
    champion, challenger = np.array(right)
    assert gate["fresh"]["champion"] == pytest.approx(champion.mean())
    assert gate["fresh"]["gain"]["value"] == pytest.approx((challenger * 1.0 - champion).mean())
    assert gate["fresh"]["count"] == len(records)
    labels = np.array([records.classes[record["label"]] for record in records])
    for label in LABELS:
        cut = gate["fresh"]["slices"][f"label={label}"]
        assert cut["count"] == (labels == label).sum()
        assert cut["gain"]["value"] == pytest.approx((challenger * 1.0 - champion)[labels == label].mean())


def test_slices_by_a_field() -> None:
    assert run(compare, "origin") == 0
    gate = report("compare", "origin", "gate.json")
    assert set(gate["frozen"]["slices"]) == {"origin=new", "origin=old"}
    assert gate["frozen"]["slices"]["origin=new"]["gain"]["value"] > 0.3


def test_a_folder_that_is_not_served_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("models/finetune_text/both/serve.json")
    kept = shutil.copy(path, "kept.json")
    path.unlink()
    try:
        assert run(compare, "both") == 1
    finally:
        shutil.move(kept, path)
    assert "serve.json is missing" in capsys.readouterr().err
