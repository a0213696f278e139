"""train_factor for real on a language of four words: pairs of runs, what a change reaches, refusals in a line."""

import json
import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows.params import ParamsError
from flows.stages import ingest, pretrain_text, runtime, tokenizer, train_factor, validate
from flows.stages.__main__ import check
from flows.stages.runtime import execute

FIT = {
    "steps": 30,
    "batch_size": 16,
    "learning_rate": 0.01,
    "warmup": 5,
    "validate_every": 30,
    "save_every": 30,
    "seed": 9,
}
SHAPE = {"context": 24, "transformer": {"width": 32, "depth": 2, "heads": 2}}
ENTRY = {"group": "study", "source": "order", "pretrained": "order"}
BASE = {**ENTRY, "train": 200, "fit": FIT, "seeds": [1, 2]}


def variant(of: str, helps: str, change: dict[str, Any]) -> dict[str, Any]:
    return {**ENTRY, "of": of, "factor": "a factor", "helps": helps, "change": change}


PARAMS = {
    "sources": {
        "order": {
            "layout": "jsonl",
            "path": "order.jsonl",
            "fields": {"text": "text", "label": "label"},
            "held_out": {"valid": {"share": 0.2}, "test": {"share": 0.1}},
        }
    },
    "tokenizer": {"bytes": {"english": "order", "japanese": "order", "vocabulary": 262}},
    "pretrain_text": {"order": {"source": "order", "tokenizer": "bytes", "encoder": SHAPE, "fit": FIT}},
    "train_factor": {
        "decoder": {**BASE, "of": "decoder", "decoder": SHAPE},
        "classifier": {**BASE, "of": "classifier", "classifier": {}},
        "same": variant("decoder", "base", {"fit.schedule": "cosine"}),
        "slow": variant("decoder", "base", {"fit.learning_rate": 1e-9}),
        "smooth": variant("classifier", "variant", {"classifier.label_smoothing": 0.4, "fit.layer_decay": 0.5}),
    },
}
GRAPH = {
    "stages": {"train_factor": {"foreach": "${train_factor}", "do": {"cmd": "python -m flows.stages.train_factor"}}}
}


def write(params: dict[str, Any], path: str = "params.yaml") -> None:
    with open(path, "w", encoding="utf-8") as file:
        YAML().dump(params, file)


def run(module, key: str, section: str = "") -> int:
    name = module.__name__.rpartition(".")[2]
    return execute(name, key, module.Params, module.cost, module.run, section or name)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    rng = random.Random(0)
    orders = [rng.sample(["cat", "dog", "owl"], 3) for _ in range(400)]
    rows = ({"text": " ".join(order), "label": str(order.index("cat"))} for order in orders)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for variable in runtime.THREAD_VARIABLES:
            patch.setenv(variable, "1")
        write(PARAMS)
        (root / "order.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for module, key, section in (
            (ingest, "order", "sources"),
            (validate, "order", "sources"),
            (tokenizer, "bytes", ""),
            (pretrain_text, "order", ""),
        ):
            assert run(module, key, section) == 0
    return root


@pytest.fixture(autouse=True)
def _there(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    for variable in runtime.THREAD_VARIABLES:
        monkeypatch.setenv(variable, "1")
    write(PARAMS)


def rows_of(key: str) -> list[dict[str, Any]]:
    assert run(train_factor, key) == 0
    folder = Path("reports/train_factor") / key
    rows = json.loads((folder / "rows.json").read_text())
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures == {name: pytest.approx(sum(row[name] for row in rows) / len(rows)) for name in figures}
    return rows


def test_a_variant_that_changes_nothing_gives_the_bits_of_its_base() -> None:
    base, same = rows_of("decoder"), rows_of("same")
    assert [row["seed"] for row in base] == [1, 2]
    assert [row["loss"] for row in base] == [row["loss"] for row in same]
    assert base[0]["loss"] != base[1]["loss"]
    about = {name: same[0][name] for name in ("variant", "base", "factor", "helps", "claimed", "steps")}
    assert about == {
        "variant": "same",
        "base": "decoder",
        "factor": "a factor",
        "helps": "base",
        "claimed": False,
        "steps": 30,
    }
    assert (base[0]["variant"], base[0]["base"]) == ("decoder", "decoder")


def test_a_change_reaches_the_run() -> None:
    assert rows_of("decoder")[0]["loss"] < 3 < rows_of("slow")[0]["loss"]


def test_a_classifier_is_judged_by_accuracy_too() -> None:
    base, smooth = rows_of("classifier"), rows_of("smooth")
    assert [row["accuracy"] <= 1 for row in base + smooth] == [True] * 4
    assert {row["loss"] for row in base}.isdisjoint(row["loss"] for row in smooth)


MISTAKES = [
    (
        {"decoder.transformer.droput": 0.1},
        "change.decoder.transformer.droput = 0.1: no such key: did you mean dropout?",
    ),
    ({"decodr.context": 3}, "change.decodr.context: changes begin with decoder, classifier, fit, and a dot"),
    ({"fit.schedule": "cosin"}, 'change.fit.schedule = "cosin": must be one of'),
    ({"fit.warmup": 40}, "change.fit: warmup 40 must be below steps 30"),
    ({"fit.steps.x": 40}, "change.fit.steps.x: steps has no keys"),
    ({"classifier.dropout": 0.1}, "change: a base trains a decoder or a classifier: give one of the two"),
]


@pytest.mark.parametrize(("change", "line"), MISTAKES)
def test_a_change_that_does_not_fit_is_one_line(change: dict[str, Any], line: str, capsys) -> None:
    params = deepcopy(PARAMS)
    params["train_factor"]["same"]["change"] = change
    write(params)
    assert run(train_factor, "same") == 2
    error = capsys.readouterr().err
    assert f"train_factor.same.{line}" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("key", "field", "value", "line"),
    [
        ("same", "of", "slow", "train_factor.same.of = slow: is a variant itself: name a base"),
        (
            "same",
            "of",
            "decodr",
            'train_factor.same.of = "decodr": train_factor has no such key: did you mean decoder?',
        ),
        ("decoder", "of", "slow", "train_factor.decoder.of = slow: of a base is its own key, decoder"),
        ("same", "threads", 2, "train_factor.same.threads = 2: must be that of decoder, 1"),
    ],
)
def test_what_is_no_pair_is_refused_by_the_check_before_a_run(key: str, field: str, value: Any, line: str) -> None:
    params = deepcopy(PARAMS)
    params["train_factor"][key][field] = value
    write({"train_factor": params["train_factor"]} | {name: params[name] for name in ("sources", "pretrain_text")})
    write(GRAPH, "dvc.yaml")
    with pytest.raises(ParamsError) as error:
        check()
    assert line in str(error.value)


def test_more_texts_than_there_are_is_one_line(capsys) -> None:
    params = deepcopy(PARAMS)
    params["train_factor"]["decoder"]["train"] = 4000
    write(params)
    assert run(train_factor, "decoder") == 1
    assert "order has 276 texts to train on: lower `train` to that" in capsys.readouterr().err
