"""Small models of each kind that the server serves, written and deployed as the stages would: for tests and benchmarks.

Their weights are random, save the recogniser's: it has learnt to hear one word, so that a search by voice has one.
"""

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image

from components.data.tokenizer import train
from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig
from components.encoders.classifier import Classifier
from components.encoders.image_config import ImageConfig
from components.encoders.speech_config import FeaturesConfig, SpeechConfig
from components.encoders.text import TextEncoder
from components.encoders.text_config import TextConfig
from components.inference import pointer
from components.training.weights import save_model
from components.transformer.config import TransformerConfig
from flows.stages import train_clip, train_speech

TEXTS = ["a small red circle at the left", "a big blue square at the top", "赤い丸が左にあります"] * 20
SHAPE = TransformerConfig(width=32, depth=1, heads=2)
CONTEXT = 256
LETTERS = list(" abcdefghijklmnopqrstuvwxyz")
CLASSES = ["colour", "place", "shape"]
WORD = "red"  # what the recogniser hears in `sound`


def decoder(folder: Path, seed: int = 0, shape: TransformerConfig = SHAPE) -> Path:
    tokenizer = train(TEXTS, 300)
    config = DecoderConfig(shape, context=CONTEXT)
    torch.manual_seed(seed)
    model = CausalDecoder(config, tokenizer.get_vocab_size())
    about = {"decoder": asdict(config), "vocabulary": tokenizer.get_vocab_size(), "seed": seed}
    return _written(folder, model, about, "train_decoder", "decoder", tokenizer)


def towers(folder: Path, seed: int = 0, shape: TransformerConfig = SHAPE) -> Path:
    tokenizer = train(TEXTS, 300)
    image = ImageConfig(shape, size=32, patch=16)
    text = TextConfig(shape, context=32)
    torch.manual_seed(seed)
    made = train_clip.make(image, text, 16, tokenizer)
    about = {"image": asdict(image), "text": asdict(text), "space": 16, "captions": ["text"], "seed": seed}
    return _written(folder, made.model, about, "train_clip", "search", tokenizer)


def recogniser(folder: Path, seed: int = 0, shape: TransformerConfig = SHAPE) -> Path:
    config = SpeechConfig(shape, longest=4.0, channels=8, features=FeaturesConfig(rate=8000, mels=20))
    torch.manual_seed(seed)
    hears = train_speech.Hears("ctc", config, LETTERS)
    _learn_word(hears)
    about = {"head": "ctc", "encoder": asdict(config), "names": LETTERS, "seed": seed}
    return _written(folder, hears.model, about, "train_speech", "recogniser")


def _learn_word(hears: train_speech.Hears) -> None:
    """Until it is heard in `sound`, clean and in noise, and nothing in silence: about 3 seconds."""
    from components.data.sounds import waveform

    word, rate, longest = hears.target({"text": WORD}), hears.config.features.rate, hears.config.longest
    said = [waveform({"sound": sound(seconds)}, rate, longest) for seconds in (1.0, 1.5, 2.0)]
    noise = 0.01 * torch.randn(2 * rate, generator=torch.Generator().manual_seed(0))
    noisy = [0.1 * (each + noise[: len(each)]) for each in said]
    batch = hears.collate([*((each, word) for each in said + noisy), (0.0 * noise, [])])
    optimiser = torch.optim.Adam(hears.model.parameters(), 3e-3)
    for step in range(1000):
        loss = hears.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 10 == 0 and float(loss.detach()) < 0.05:
            return
    raise RuntimeError(f"the recogniser has not learnt {WORD!r}: its loss is {float(loss.detach()):.2f}")


def classifier(folder: Path, seed: int = 0, shape: TransformerConfig = SHAPE) -> Path:
    tokenizer = train(TEXTS, 300)
    config = TextConfig(shape, context=32)
    torch.manual_seed(seed)
    model = Classifier(TextEncoder(config, tokenizer.get_vocab_size()), len(CLASSES))
    about = {"encoder": asdict(config), "vocabulary": tokenizer.get_vocab_size(), "classes": CLASSES, "seed": seed}
    return _written(folder, model, about, "finetune_text", "classifier", tokenizer)


def _written(folder: Path, model: Any, about: dict[str, Any], stage: str, kind: str, tokenizer: Any = None) -> Path:
    save_model(folder, model, about)
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "serve.json").write_text(json.dumps({"stage": stage, "kind": kind, "variant": "plain"}))
    return folder


MODELS: dict[str, Callable[..., Path]] = {
    "decoder": decoder,
    "search": towers,
    "recogniser": recogniser,
    "classifier": classifier,
}


def version(folder: Path, name: str = "v1.0.0") -> pointer.Version:
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    return pointer.Version(name, "c" * 40, folder.resolve(), files)


def deploy(
    serving: Path, name: str, champion: pointer.Version, serial: int = 1, trial: pointer.Challenger | None = None
) -> None:
    path = pointer.place(serving, name)
    pointer.write(path, pointer.Pointer(name, champion, trial, serial))


def everything(root: Path, shape: TransformerConfig = SHAPE) -> Path:
    """A serving folder with one model of each kind; beside it `models`, and `pictures` to search."""
    for name, make in MODELS.items():
        deploy(root / "serving", name, version(make(root / "models" / name, 0, shape)))
    pictures(root / "pictures")
    return root / "serving"


def picture(colour: tuple[int, int, int] = (200, 30, 30), size: int = 32, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(file, kind)
    return file.getvalue()


def pictures(folder: Path) -> Path:
    folder.mkdir()
    for name, colour in {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}.items():
        (folder / f"{name}.png").write_bytes(picture(colour))
    return folder


def sound(seconds: float = 1.0, rate: int = 8000, channels: int = 1) -> bytes:
    """A tone that rises from 300 to 900 Hz, four times a second, as WAV: a browser takes a steady one for noise."""
    file = io.BytesIO()
    time = np.arange(round(seconds * rate)) / rate
    phase = time % 0.25
    tone = np.sin(2 * np.pi * (300 * phase + 1200 * phase**2)) * np.sin(4 * np.pi * phase) ** 2
    soundfile.write(file, np.repeat(tone[:, None], channels, 1), rate, format="WAV")
    return file.getvalue()
