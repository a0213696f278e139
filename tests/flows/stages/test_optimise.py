"""The stage from a trained folder to one that is served, for each kind of model, with no test split to look at."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch import nn

from components.contrastive.towers import TwoTowers
from components.data.records import Records
from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig
from components.encoders.classifier import Classifier
from components.encoders.image import ImageEncoder
from components.encoders.image_config import ImageConfig
from components.encoders.speech_config import FeaturesConfig, SpeechConfig
from components.encoders.text import TextEncoder
from components.encoders.text_config import TextConfig
from components.evaluation.measure import in_fresh_process
from components.inference import export, variants
from components.training.weights import save_model
from components.transformer.config import TransformerConfig
from flows.stages import finetune_text, optimise, runtime, tokenizer, train_clip, train_decoder, train_speech
from tests.flows.stages.small import inside, run, take_in

SIZES = "train: 40, valid: 12, test: 8"
MEASURED = "requests: 3, batch: 4, rounds: 2"
PARAMS = f"""
sources:
  pictures: {{layout: world, path: w, seed: 1, world: {{view: pictures, {SIZES}, label: count, image_size: 32}}}}
  texts: {{layout: world, path: w, seed: 1, world: {{view: text, {SIZES}, label: colour}}}}
  speech: {{layout: world, path: w, seed: 1, world: {{view: speech, {SIZES}, objects: 1, rate: 8000}}}}
tokenizer:
  words: {{english: texts, japanese: texts, vocabulary: 300}}
finetune_text: {{small: {{}}}}
train_clip: {{small: {{}}}}
train_speech: {{small: {{}}}}
train_decoder: {{small: {{}}}}
optimise:
  text: {{stage: finetune_text, run: small, source: texts, variants: [int8_dynamic, bf16], {MEASURED}}}
  search: {{stage: train_clip, run: small, source: pictures, variants: [onnx], {MEASURED}}}
  speech: {{stage: train_speech, run: small, source: speech, variants: [int8_weights, onnx], {MEASURED}}}
  decoder: {{stage: train_decoder, run: small, source: texts, variants: [int8_weights], {MEASURED}}}
"""
SHAPE = TransformerConfig(32, 1, 4)
LOADS: dict[str, Any] = {
    "text": finetune_text.load,
    "search": train_clip.load,
    "speech": train_speech.load,
    "decoder": train_decoder.load,
}


def folders(root: Path) -> None:
    """What the training stages would leave, with weights as drawn."""
    torch.manual_seed(0)
    words = root / "data/tokenizers/words/tokenizer.json"
    vocabulary = Tokenizer.from_file(str(words)).get_vocab_size()
    text, image = TextConfig(SHAPE, 64), ImageConfig(SHAPE, size=32, patch=16)
    speech = SpeechConfig(SHAPE, longest=12.0, channels=8, features=FeaturesConfig(rate=8000, mels=16))
    classes = json.loads((root / "data/index/texts/classes.json").read_text())
    letters = sorted({letter for record in valid(root, "speech") for letter in record["text"]})
    decoder = DecoderConfig(SHAPE, context=64)
    models: dict[str, tuple[nn.Module, dict[str, Any]]] = {
        "finetune_text": (
            Classifier(TextEncoder(text, vocabulary), len(classes)),
            {"encoder": asdict(text), "vocabulary": vocabulary, "classes": classes},
        ),
        "train_clip": (
            TwoTowers(ImageEncoder(image), TextEncoder(text, vocabulary), 16),
            {"image": asdict(image), "text": asdict(text), "space": 16},
        ),
        "train_speech": (
            train_speech.Hears("ctc", speech, letters).model,
            {"head": "ctc", "encoder": asdict(speech), "names": letters},
        ),
        "train_decoder": (
            CausalDecoder(decoder, vocabulary),
            {"decoder": asdict(decoder), "vocabulary": vocabulary},
        ),
    }
    for stage, (model, about) in models.items():
        folder = root / "models" / stage / "small"
        save_model(folder, model, about | {"seed": 1})
        if stage != "train_speech":
            shutil.copyfile(words, folder / "tokenizer.json")


def valid(root: Path, source: str) -> list[dict[str, Any]]:
    return list(Records(*(root / "data" / kind / source / "valid" for kind in ("shards", "index"))))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    (root / "params.yaml").write_text(PARAMS)
    with inside(root):
        take_in("pictures", "texts", "speech")
        assert run(tokenizer, "words") == 0
        folders(root)
        for split in ("train", "test"):
            for path in root.glob(f"data/*/*/{split}"):
                shutil.rmtree(path)
    return root


@pytest.fixture(autouse=True)
def _there(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # symbols stand for sizes where torch traces
    with inside(project):
        yield


def answers(served: Any, key: str, records: list[dict[str, Any]]) -> np.ndarray:
    if key == "text":
        return served.classify(records)
    if key == "search":
        return served.embed_images(records).numpy()
    if key == "speech":
        return np.array([len(text) for text in served.transcribe(records)])
    with torch.no_grad():
        return served.decoder(torch.arange(20).view(2, 10)).numpy()


def optimised(key: str) -> int:
    return run(optimise, key)


@pytest.mark.parametrize(
    ("key", "kind", "source"),
    [
        ("text", "classifier", "texts"),
        pytest.param("search", "search", "pictures", marks=pytest.mark.slow),  # onnx takes its time to trace
        pytest.param("speech", "recogniser", "speech", marks=pytest.mark.slow),
        ("decoder", "decoder", "texts"),
    ],
)
def test_a_folder_to_be_served_holds_what_was_chosen(key: str, kind: str, source: str, project: Path) -> None:
    assert in_fresh_process(optimised, key) == 0  # as a stage runs: what other tests have freed would count
    folder, reports = Path("models/optimise") / key, Path("reports/optimise") / key
    about, serve = (json.loads(path.read_text()) for path in (reports / "variants.json", folder / "serve.json"))
    rows = {row["variant"]: row for row in about["rows"]}
    assert about["chosen"] == variants.choose(about["rows"], about["better"])
    stage = {"text": "finetune_text", "search": "train_clip", "speech": "train_speech", "decoder": "train_decoder"}[key]
    assert serve == {"stage": stage, "kind": kind, "variant": about["chosen"]}
    asked = {"text": ["int8_dynamic", "bf16"], "search": ["onnx"], "speech": ["int8_weights", "onnx"]}
    assert list(rows) == ["plain", *(name for name in asked.get(key, ["int8_weights"]) if not variants.lacks(name))]
    for row in rows.values():
        assert 0 < row["p50"] <= row["p99"] and row["throughput"] > 0 and row["memory"] > row["size"] > 0
    weights = Path("models") / stage / "small" / runtime.WEIGHTS
    assert rows["plain"]["size"] == pytest.approx(weights.stat().st_size, rel=0.1)
    if "onnx" in rows:
        assert rows["onnx"]["quality"] == pytest.approx(rows["plain"]["quality"], abs=0.02)
    assert bool(list(folder.glob("*.onnx"))) == (about["chosen"] == "onnx")
    assert (folder / runtime.WEIGHTS).read_bytes() == weights.read_bytes()
    assert (reports / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((reports / "metrics.json").read_text())["times_faster"] > 0
    assert not list(Path("models/optimise").glob(".*"))

    plain, served = (LOADS[key](folder, torch.device("cpu")) for _ in range(2))
    part = "decoder" if key == "decoder" else "model"
    setattr(served, part, variants.apply(getattr(served, part), about["chosen"], folder))
    records = valid(project, source)
    np.testing.assert_allclose(answers(served, key, records), answers(plain, key, records), atol=0.1)


def test_bits_per_byte_are_those_of_the_texts_read_one_token_at_a_time(project: Path) -> None:
    from flows.stages.workloads import decoder

    served = train_decoder.load(Path("models/train_decoder/small"), torch.device("cpu"))
    records = valid(project, "texts")[:2]
    ids, nats = decoder.row(served, records).tolist(), 0.0
    with torch.no_grad():
        for place in range(1, len(ids)):
            window = (place - 1) // 64 * 64
            nats -= served.decoder(torch.tensor([ids[window:place]]))[0, -1].log_softmax(0)[ids[place]].item()
    size = sum(len(record["text"].encode()) + 1 for record in records)
    assert decoder.quality(served, records) == pytest.approx(nats / np.log(2) / size, rel=1e-4)


def test_what_the_machine_lacks_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "PACKAGES", ("no_such_package",))
    assert run(optimise, "search") == 0
    assert "left out: onnx: no_such_package is not installed" in capsys.readouterr().out
    assert json.loads(Path("models/optimise/search/serve.json").read_text())["variant"] == "plain"


def test_a_damaged_model_is_one_line_and_leaves_the_old_folder(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = Path("models/optimise/decoder/serve.json")
    old.parent.mkdir(parents=True, exist_ok=True)
    old.write_text("{}")
    weights = project / "models/train_decoder/small" / runtime.WEIGHTS
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:100])
        assert run(optimise, "decoder") == 1
    finally:
        weights.write_bytes(whole)
    error = capsys.readouterr().err
    assert "damaged" in error and error.count("\n") == 1
    assert old.read_text() == "{}" and not list(Path("models/optimise").glob(".*"))


def test_a_decoder_as_a_graph_is_refused_with_its_parameters(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = project / "params.yaml"
    path.write_text(PARAMS.replace("source: texts, variants: [int8_weights]", "source: texts, variants: [onnx]"))
    try:
        assert run(optimise, "decoder") == 2
    finally:
        path.write_text(PARAMS)
    error = capsys.readouterr().err
    assert "has no cache" in error and error.count("\n") == 1
