"""Graphs under onnxruntime against the models that they are of, and what does not become one."""

from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from torch import nn

from components.contrastive.towers import TwoTowers
from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig
from components.encoders.classifier import Classifier
from components.encoders.image import ImageEncoder
from components.encoders.image_config import ImageConfig
from components.encoders.recogniser import Recogniser, greedy
from components.encoders.speech import SpeechEncoder
from components.encoders.speech_config import FeaturesConfig, SpeechConfig
from components.encoders.text import TextEncoder
from components.encoders.text_config import TextConfig
from components.inference import export
from components.transformer.config import TransformerConfig

SHAPE = TransformerConfig(32, 1, 4)
LEARNED = TransformerConfig(32, 1, 4, positions="learned", norm="rms", activation="swiglu")


@pytest.fixture(autouse=True)
def _sizes_may_be_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    """While torch traces a model, a length is no int, which annotations are checked for."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def texts(**parts: object) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(TextConfig(SHAPE, 24, **parts), 50).eval()


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(texts(), 3).eval()


@pytest.fixture(scope="module")
def folder(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        export.export(classifier, folder)
    return folder


def exported(model: nn.Module, folder: Path) -> nn.Module:
    paths = export.export(model, folder)
    assert sorted(folder.iterdir()) == sorted(paths)  # nothing half-written beside them
    return export.load(folder, model)


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=export.TOLERANCE, atol=export.TOLERANCE)


@torch.no_grad()
def test_a_classifier_of_texts_takes_any_batch_length_and_mask(classifier: Classifier, folder: Path) -> None:
    model, graph = classifier, export.load(folder, classifier)
    for batch, length in ((1, 1), (1, 24), (5, 7), (40, 13)):
        ids = torch.randint(50, (batch, length))
        mask = torch.arange(length) < torch.randint(1, length + 1, (batch, 1))
        close(graph(ids, mask), model(ids, mask))
        close(graph(ids, None), model(ids, None))
    assert next(graph.parameters()).device.type == "cpu"


@torch.no_grad()
def test_an_encoder_gives_tokens_and_their_pool(tmp_path: Path) -> None:
    model = texts(causal=True)
    graph = exported(model, tmp_path)
    ids, mask = torch.randint(50, (2, 9)), torch.arange(9) < torch.tensor([[9], [4]])
    tokens, pooled = graph(ids, mask)
    close(tokens, model(ids, mask).tokens)
    close(pooled, model(ids, mask).pooled)


@torch.no_grad()
def test_towers_have_a_graph_for_each_side(tmp_path: Path) -> None:
    torch.manual_seed(0)
    image = ImageEncoder(ImageConfig(LEARNED, size=32, patch=8, stem="convolutions"))
    model = TwoTowers(image, TextEncoder(TextConfig(LEARNED, 16), 50), 24).eval()
    graph = exported(model, tmp_path)
    for batch in (1, 4):
        images, ids = torch.rand(batch, 3, 32, 32), torch.randint(50, (batch, 11))
        close(graph.embed_images(images), model.embed_images(images))
        close(graph.embed_texts(ids, None), model.embed_texts(ids))


@torch.no_grad()
def test_a_recogniser_hears_the_same_letters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = SpeechConfig(SHAPE, longest=1.0, channels=8, features=FeaturesConfig(rate=8000, mels=16))
    model = Recogniser(SpeechEncoder(config), 9).eval()
    graph = exported(model, tmp_path)
    for sizes in ([8000], [4000, 2500, 3999]):
        waveforms, lengths = torch.randn(len(sizes), max(sizes)) * 0.1, torch.tensor(sizes)
        wanted, got = model(waveforms, lengths), graph(waveforms, lengths)
        close(got[0], wanted[0])
        assert torch.equal(got[1], wanted[1]) and greedy(*got) == greedy(*wanted)


@pytest.mark.slow
@torch.no_grad()
def test_a_decoder_scores_rows_of_any_length(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = TransformerConfig(32, 2, 4, key_value_heads=2, norm="rms", activation="swiglu", bias="none")
    model = CausalDecoder(DecoderConfig(shape, 20), 50).eval()
    graph = exported(model, tmp_path)
    for batch, length in ((1, 1), (3, 8), (2, 20)):
        ids = torch.randint(50, (batch, length))
        close(graph(ids), model(ids))


def test_a_file_tells_nothing_of_where_it_was_made(folder: Path) -> None:
    [path] = folder.iterdir()
    assert str(Path(__file__).parents[3]).encode() not in path.read_bytes()
    assert b"site-packages" not in path.read_bytes()


class Doubtful(TextEncoder):
    """Gives other outputs when torch traces it."""

    def forward(self, ids, mask=None, segments=None):
        encoded = super().forward(ids, mask, segments)
        return (
            encoded
            if not torch.compiler.is_exporting()
            else type(encoded)(encoded.tokens + 1, encoded.pooled + 1, mask)
        )


def test_a_graph_that_differs_is_not_written(tmp_path: Path) -> None:
    model = Classifier(Doubtful(TextConfig(SHAPE, 24), 50), 3).eval()
    with pytest.raises(ValueError, match=r"^onnx: model differs from the model by .*serve another variant$"):
        export.export(model, tmp_path)
    assert not list(tmp_path.iterdir())


class Fixed(TextEncoder):
    """Takes the batch for a number that does not change."""

    def forward(self, ids, mask=None, segments=None):
        return super().forward(ids + torch.zeros(len(ids), 1, dtype=torch.long), mask, segments)


class Asking(TextEncoder):
    """Asks for a value while it is traced."""

    def forward(self, ids, mask=None, segments=None):
        return super().forward(ids + ids.sum().item().bit_length(), mask, segments)


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Fixed, "model does not run at .*, as the model does"), (Asking, "a Classifier does not export")],
)
def test_what_does_not_export_is_one_line_and_leaves_nothing(kind: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^onnx: .*{message}: .*") as caught:
        export.export(Classifier(kind(TextConfig(SHAPE, 24), 50), 3).eval(), tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_other_models_missing_packages_and_damaged_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="a Linear has no graph here"):
        export.export(nn.Linear(2, 2), tmp_path)
    model = Classifier(texts(), 3).eval()
    with pytest.raises(ValueError, match=r"model.onnx is missing"):
        export.load(tmp_path, model)
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ValueError, match=r"model.onnx is no graph that onnxruntime runs"):
        export.load(tmp_path, model)
    monkeypatch.setattr(export, "PACKAGES", ("no_such_package",))
    with pytest.raises(RuntimeError, match="no_such_package is not installed"):
        export.export(model, tmp_path)
