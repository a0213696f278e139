"""Judges with small models whose figures are known, over records in memory."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from PIL import Image

from components.data.tokenizer import EOS, train
from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig
from components.evaluation.floors import Splits
from components.transformer.config import TransformerConfig
from flows.stages.judges import classification, language, retrieval, transcription

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "white": (250, 250, 250)}
WORDS = (*COLOURS, "pink", "at", "the", "left", "right", "and")


class Few(list):
    """Records in memory, as `Records` gives them."""

    def __init__(self, records: list[dict[str, Any]], kind: str, classes: list[str]):
        super().__init__(records)
        self.kind, self.classes = kind, classes

    @property
    def labels(self) -> np.ndarray:
        return np.array([record.get("label", -1) for record in self])


def splits(make: Any, kind: str, classes: list[str], sizes: tuple[int, int, int] = (60, 16, 24)) -> Splits:
    rng = np.random.default_rng(0)
    return Splits(*(Few([make(number, rng) for number in range(size)], kind, classes) for size in sizes))


def picture(number: int, rng: np.random.Generator) -> dict[str, Any]:
    """Two coloured halves, and what they are."""
    left, right = (list(COLOURS)[int(i)] for i in rng.permutation(4)[:2])
    pixels = np.zeros((12, 12, 3), np.uint8)
    pixels[:, :6], pixels[:, 6:] = COLOURS[left], COLOURS[right]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    text = f"{left} at the left and {right} at the right"
    changed = [f"{right} at the left and {left} at the right", f"{left} at the left and pink at the right"]
    return {
        "key": str(number),
        "image": file.getvalue(),
        "text": text,
        "label": list(COLOURS).index(left),
        "changed": changed,
    }


def sound(number: int, rng: np.random.Generator) -> dict[str, Any]:
    """One tone for each of two words."""
    pitch = rng.integers(2, size=2)
    time = np.arange(1600) / 8000
    file = io.BytesIO()
    soundfile.write(file, np.concatenate([np.sin(6.28 * (400 + 1200 * p) * time) for p in pitch]), 8000, format="WAV")
    return {
        "key": str(number),
        "sound": file.getvalue(),
        "text": f"{['low', 'high'][pitch[0]]} then {['low', 'high'][pitch[1]]}",
        "label": int(pitch[0]),
        "voice": f"v{number % 2}",
    }


class Oracle:
    """Knows the labels of all but the first four records."""

    def __init__(self) -> None:
        self.classes = list(COLOURS)

    def classify(self, records: Any) -> np.ndarray:
        right = np.eye(4)[[record["label"] for record in records]]
        right[:4] = np.roll(right[:4], 1, axis=1)
        return 0.6 * right + 0.1


def test_classification_counts_right_answers_and_shows_wrong_ones() -> None:
    data = splits(picture, "image", list(COLOURS))
    judgement = classification.judge(Oracle(), data, 200, 0)
    [result] = judgement.results
    assert result.interval.value == pytest.approx(20 / 24)
    assert result.interval.low < result.interval.value < result.interval.high
    assert result.floor == 1.0  # the colour of the left half is linear in the pixels
    usual = np.bincount([record["label"] for record in (*data.train, *data.valid)]).argmax()
    assert result.chance == np.mean(data.test.labels == usual)
    assert [sample["key"] for sample in judgement.samples] == ["0", "1", "2", "3"]


def test_classification_of_sounds_and_texts_has_floors() -> None:
    for kind in ("sound", "text"):
        data = splits(sound, kind, ["low", "high"])
        model = type("Low", (), {"classes": ["low", "high"], "classify": lambda _, r: np.tile([0.7, 0.3], (len(r), 1))})
        [result] = classification.judge(model(), data, 100, 0).results
        assert result.interval.value == np.mean(data.test.labels == 0)
        assert result.floor > 0.95


def test_classification_refuses_a_model_of_other_classes() -> None:
    with pytest.raises(ValueError, match=r"knows the classes \['red'.*the source has \['a'"):
        classification.judge(Oracle(), splits(picture, "image", ["a"]), 100, 0)


def test_transcription_counts_words_over_the_split() -> None:
    data = splits(sound, "sound", [])
    model = type("Deaf", (), {"transcribe": lambda _, records: ["Low then low." for _ in records]})
    judgement = transcription.judge(model(), data, 200, 0)
    [result] = judgement.results
    wrong = sum(word == "high" for record in data.test for word in record["text"].split())
    assert result.interval.value == pytest.approx(wrong / (3 * 24))
    assert result.floor < 0.1 < result.chance
    assert judgement.samples[0]["errors"] == data.test[0]["text"].split().count("high")


class Towers:
    """Vectors of the words, place by place; a picture's are those of its caption, with `noise`."""

    def __init__(self, noise: float):
        self.noise = noise

    def embed_texts(self, texts: Any) -> torch.Tensor:
        rows = torch.zeros(len(texts), 9 * len(WORDS))
        for row, text in zip(rows, texts, strict=True):
            for place, word in enumerate(text.split()):
                row[place * len(WORDS) + WORDS.index(word)] = 1
        return F.normalize(rows, dim=-1)

    def embed_images(self, records: Any) -> torch.Tensor:
        vectors = self.embed_texts([record["text"] for record in records])
        return vectors + self.noise * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0))


class Words(Towers):
    def embed_texts(self, texts: Any) -> torch.Tensor:
        return F.normalize(torch.tensor([[float(t.split().count(w)) for w in WORDS] for t in texts]), dim=-1)


def test_retrieval_of_a_perfect_model() -> None:
    judgement = retrieval.judge(Towers(0.0), splits(picture, "image", []), 200, 0, "text", 5)
    forth, back, choice, every = judgement.results
    assert [result.interval.value for result in judgement.results] == [1, 1, 1, 1]
    assert (forth.chance, back.chance, choice.chance, every.chance) == (1 / 5, 1 / 5, 1 / 2, 1 / 3)
    assert 0.3 < forth.floor <= 1
    assert judgement.samples[0]["found"][0] == judgement.samples[0]["caption"]


def test_retrieval_by_words_alone_falls_for_exchanged_ones() -> None:
    """Colours exchanged give the same bag of words, and a tie counts against the model."""
    forth, _, choice, every = retrieval.judge(Words(0.0), splits(picture, "image", []), 200, 0, "text", 99).results
    assert (choice.interval.value, every.interval.value) == (1 / 2, 0)
    assert forth.interval.value < 0.6


def test_retrieval_of_mixed_sets_whose_records_have_more_or_fewer_changed_captions() -> None:
    data = splits(picture, "image", [])
    cut = Splits(
        *(
            Few([r | {"changed": r["changed"][:1]} for r in part], "image", [])
            for part in (data.train, data.valid, data.test)
        )
    )
    for number, record in enumerate(data.test):
        del record["changed"][2 - number % 2 :]
    judged, expected = (retrieval.judge(Words(0.1), each, 200, 0, "text", 5).results for each in (data, cut))
    assert [result.metric for result in judged][2:] == ["changed_attribute", "changed_attribute_all"]
    assert [result.interval for result in judged] == [result.interval for result in expected]
    del data.test[0]["changed"]
    assert len(retrieval.judge(Words(0.1), data, 200, 0, "text", 5).results) == 2, "one has none: nothing to compare"


def line(number: int, rng: np.random.Generator) -> dict[str, Any]:
    return {"key": str(number), "text": " ".join(rng.choice(["red 赤い", "star", "ring", "輪"], size=5))}


def test_language_costs_are_those_of_the_whole_file_at_once() -> None:
    """A context that holds all: the windows give what one pass gives. Bits over the bytes of the file."""
    data = splits(line, "text", [], (30, 5, 6))
    tokenizer = train([record["text"] for record in data.train], 300)
    torch.manual_seed(0)
    config = TransformerConfig(width=16, depth=1, heads=2)
    decoder = CausalDecoder(DecoderConfig(config, context=400), tokenizer.get_vocab_size()).eval()
    torch.nn.init.normal_(decoder.embedding.weight, std=0.5)
    [result] = language.judge(SimpleNamespace(decoder=decoder, tokenizer=tokenizer), data, 200, 0).results

    texts = [record["text"] for record in data.test]
    ids = [EOS, *(i for text in texts for i in (*tokenizer.encode(text, add_special_tokens=False).ids, EOS))]
    assert len(ids) < 400
    with torch.no_grad():
        nats = F.cross_entropy(decoder(torch.tensor([ids[:-1]]))[0], torch.tensor(ids[1:]), reduction="sum").item()
    size = len("".join(text + "\n" for text in texts).encode())
    assert result.further["bytes"] == size
    assert result.interval.value == pytest.approx(nats / np.log(2) / size, rel=1e-5)


def test_language_short_contexts_slide_over_the_file() -> None:
    """A model without positions or attention to others: each token costs the same in any window."""
    data = splits(line, "text", [], (30, 5, 45))
    tokenizer = train([record["text"] for record in data.train], 300)
    torch.manual_seed(0)
    sizes = []
    for context in (9, 64):
        torch.manual_seed(0)
        config = TransformerConfig(width=16, depth=1, heads=2)
        decoder = CausalDecoder(DecoderConfig(config, context=context), tokenizer.get_vocab_size()).eval()
        for module in decoder.stack.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.zeros_(module.weight)
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)
        [result] = language.judge(SimpleNamespace(decoder=decoder, tokenizer=tokenizer), data, 200, 0).results
        assert result.count == 45
        sizes.append(result.interval.value)
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-5)
