"""The shipped stages: four micro-batches of 8 train as one batch of 32 does, on examples of mixed length."""

import io
import json
import random
import tarfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from ruamel.yaml import YAML

from flows.stages import (
    finetune_text,
    ingest,
    pretrain_text,
    runtime,
    tokenizer,
    train_decoder,
    train_factor,
    train_speech,
    validate,
)
from flows.stages.runtime import execute

FIT = {
    "steps": 6,
    "batch_size": 32,
    "learning_rate": 1e-3,
    "warmup": 2,
    "validate_every": 6,
    "save_every": 6,
    "seed": 1,
    "log_every": 1,
}
TRANSFORMER = {"width": 32, "depth": 1, "heads": 2}
HELD_OUT = {"valid": {"share": 0.1}, "test": {"share": 0.1}}
PARAMS: dict[str, Any] = {
    "sources": {
        "texts": {
            "layout": "jsonl",
            "path": "texts.jsonl",
            "fields": {"text": "text", "label": "label"},
            "held_out": HELD_OUT,
        },
        "sounds": {
            "layout": "tar",
            "path": "raw",
            "splits": {"train": "sounds.tar"},
            "fields": {"sound": "wav", "label": "json.label"},
            "held_out": HELD_OUT,
        },
    },
    "tokenizer": {"bytes": {"english": "texts", "japanese": "texts", "vocabulary": 262}},
    "pretrain_text": {
        "it": {
            "source": "texts",
            "tokenizer": "bytes",
            "encoder": {"context": 64, "transformer": TRANSFORMER},
            "fit": FIT,
        }
    },
    "finetune_text": {"it": {"source": "texts", "pretrained": "it", "dropout": 0.0, "fit": FIT}},
    "train_decoder": {
        "it": {
            "source": "texts",
            "tokenizer": "bytes",
            "decoder": {"context": 24, "transformer": TRANSFORMER},
            "fit": FIT,
        }
    },
    "train_speech": {
        "it": {
            "source": "sounds",
            "head": "class",
            "encoder": {"transformer": TRANSFORMER, "longest": 1.0, "features": {"rate": 8000, "mels": 16}},
            "fit": FIT,
        }
    },
    "train_factor": {
        "it": {
            "group": "study",
            "of": "it",
            "source": "texts",
            "pretrained": "it",
            "train": 100,
            "fit": FIT,
            "seeds": [1, 2],
            "classifier": {},
        }
    },
}


def run(module, key: str, section: str = "") -> int:
    name = module.__name__.rpartition(".")[2]
    return execute(name, key, module.Params, module.cost, module.run, section or name)


def write(params: dict[str, Any]) -> None:
    with open("params.yaml", "w", encoding="utf-8") as file:
        YAML().dump(params, file)


def sounds(rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Two pitches, from 0.15 to 0.8 s."""
    for number in range(200):
        label, seconds = number % 2, rng.uniform(0.15, 0.8)
        wave = io.BytesIO()
        times = np.arange(round(seconds * 8000)) / 8000
        soundfile.write(wave, np.sin(times * 2000 * (1 + label)) / 2, 8000, format="WAV")
        yield f"{number:03d}.wav", wave.getvalue()
        yield f"{number:03d}.json", json.dumps({"label": f"pitch {label}"}).encode()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    rng = random.Random(0)
    texts = [" ".join(rng.choices(["cat", "dog", "owl"], k=rng.randint(1, 15))) for _ in range(400)]
    rows = [{"text": text, "label": str(text.count("cat") > text.count("dog"))} for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for variable in runtime.THREAD_VARIABLES:
            patch.setenv(variable, "1")
        write(PARAMS)
        (root / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (root / "raw").mkdir()
        with tarfile.open(root / "raw" / "sounds.tar", "w") as tar:
            for name, content in sounds(np.random.default_rng(0)):
                about = tarfile.TarInfo(name)
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))
        for source in ("texts", "sounds"):
            for stage in (ingest, validate):
                assert run(stage, source, "sources") == 0
        assert run(tokenizer, "bytes") == 0
        assert run(pretrain_text, "it") == 0
    return root


@pytest.mark.parametrize("stage", [pretrain_text, finetune_text, train_decoder, train_speech])
def test_accumulation_follows_the_large_batch(stage, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and gradients step by step: other examples, or other weights, would show from the first one on."""
    curves = trained(stage, project, monkeypatch, "curves.jsonl")
    for part, whole in zip(*curves, strict=True):
        assert part == pytest.approx(whole, rel=2e-3)


def test_so_does_a_factors_classifier(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for parts, wholes in zip(*trained(train_factor, project, monkeypatch, "rows.json"), strict=True):
        assert parts["loss"] == pytest.approx(wholes["loss"], rel=1e-4)


def trained(stage, project: Path, monkeypatch: pytest.MonkeyPatch, report: str) -> list[list[dict[str, Any]]]:
    """What 4 x 8 and 1 x 32 leave, row by row."""
    monkeypatch.chdir(project)
    for variable in runtime.THREAD_VARIABLES:
        monkeypatch.setenv(variable, "1")
    name, found = stage.__name__.rpartition(".")[2], []
    for size, accumulation in ((8, 4), (32, 1)):
        params = deepcopy(PARAMS)
        params[name]["it"]["fit"] |= {"batch_size": size, "accumulation": accumulation}
        write(params)
        assert run(stage, "it") == 0
        text = Path(f"reports/{name}/it/{report}").read_text()
        found.append(json.loads(text) if report.endswith(".json") else [json.loads(row) for row in text.splitlines()])
    return found
