"""Folders of each kind loaded as their serve.json says, and folders that cannot be."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.models import MODELS, classifier, decoder, towers
from flows.stages import train_clip
from flows.stages.loaders import STAGES, load

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", MODELS)
def test_each_kind_is_loaded_by_its_stage(tmp_path: Path, kind: str) -> None:
    served = load(MODELS[kind](tmp_path / "m"), CPU)
    assert served.about.kind == kind and STAGES[served.about.stage] == kind


def test_a_variant_is_applied(tmp_path: Path) -> None:
    folder = towers(tmp_path / "m")
    plain = train_clip.load(folder, CPU)
    about = json.loads((folder / "serve.json").read_text())
    (folder / "serve.json").write_text(json.dumps(about | {"variant": "int8_weights"}))
    served = load(folder, CPU)
    names = {type(part).__name__ for part in served.model.model.modules()}
    assert "Int8Weights" in names
    vectors = served.model.embed_texts(["a red circle"])
    assert torch.allclose(vectors, plain.embed_texts(["a red circle"]), atol=0.05)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "serve.json is missing"),
        ("{", "serve.json is damaged"),
        ("[]", "serve.json is damaged"),
        ('{"stage": "train_clip", "kind": "search"}', "serve.json is damaged"),
        ('{"stage": "os", "kind": "search", "variant": "plain"}', "stage 'os' is none of"),
        (
            '{"stage": "train_clip", "kind": "decoder", "variant": "plain"}',
            "makes a search, and serve.json says decoder",
        ),
        ('{"stage": "train_clip", "kind": "x", "variant": "plain"}', "kind 'x' is none of"),
        ('{"stage": "finetune_text", "kind": "classifier", "variant": "fast"}', "variant 'fast' is unknown"),
    ],
)
def test_a_folder_that_is_no_model_to_serve_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    folder = classifier(tmp_path / "m")
    (folder / "serve.json").unlink()
    if content is not None:
        (folder / "serve.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        load(folder, CPU)


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="damaged"):
        load(folder, CPU)
