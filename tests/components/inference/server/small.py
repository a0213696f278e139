"""Small models with random weights, as the stages write them; and a server over them on a free port."""

import hashlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile
import torch
import uvicorn
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
from components.inference.server.app import create_app
from components.inference.server.settings import Settings
from components.training.weights import save_model
from components.transformer.config import TransformerConfig
from flows.stages import train_clip, train_speech
from flows.stages.loaders import load

TEXTS = ["a small red circle at the left", "a big blue square at the top", "赤い丸が左にあります"] * 20
SHAPE = TransformerConfig(width=32, depth=1, heads=2)
CONTEXT = 256
LETTERS = list(" abcdefghijklmnopqrstuvwxyz")
CLASSES = ["colour", "place", "shape"]


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
    about = {"head": "ctc", "encoder": asdict(config), "names": LETTERS, "seed": seed}
    return _written(folder, hears.model, about, "train_speech", "recogniser")


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


MODELS: dict[str, Callable[[Path], Path]] = {
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


def challenger(of: pointer.Version, share: float, mode: str, experiment: str = "e1") -> pointer.Challenger:
    return pointer.Challenger(of.version, of.commit, of.folder, of.files, share, mode, experiment)  # type: ignore[arg-type]


def picture(colour: tuple[int, int, int] = (200, 30, 30), size: int = 32, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(file, kind)
    return file.getvalue()


def sound(seconds: float = 1.0, rate: int = 8000, channels: int = 1) -> bytes:
    file = io.BytesIO()
    tone = np.sin(np.arange(round(seconds * rate)) / rate * 6.28 * 440)
    soundfile.write(file, np.repeat(tone[:, None], channels, 1), rate, format="WAV")
    return file.getvalue()


def pictures(folder: Path) -> Path:
    folder.mkdir()
    for name, colour in {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}.items():
        (folder / f"{name}.png").write_bytes(picture(colour))
    return folder


def everything(root: Path) -> Path:
    """A serving folder with one model of each kind."""
    for name, make in MODELS.items():
        deploy(root / "serving", name, version(make(root / "models" / name)))
    return root / "serving"


@contextmanager
def serve(settings: Settings, wait: bool = True) -> Iterator[Any]:
    """The app on a free port, in a thread; its address as `url`, and itself as `app`."""
    torch.set_num_threads(1)
    app = create_app(settings, partial(load, device=torch.device("cpu")))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    app.state.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        if wait:
            until(lambda: httpx.get(app.state.url + "/readyz").is_success, 120.0)  # the first imports torchvision
        yield app.state
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
        assert not thread.is_alive()


def until(done: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What `done` gives, once that is something."""
    end = time.monotonic() + seconds
    while True:
        try:
            if found := done():
                return found
        except httpx.TransportError:
            pass
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)
