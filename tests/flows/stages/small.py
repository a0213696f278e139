"""What tests of stages share: stages run in this process in a folder of their own, and small pictures, sounds and texts
whose populations can be shifted."""

import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from components.data.records import Records
from flows.stages import ingest, runtime, validate
from flows.stages.runtime import execute

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "gold": (200, 180, 30)}
TONES = {"lo": 400, "hi": 1600, "mid": 900}  # word -> Hz
RATE = 8000
LANGUAGES = {"en": ("sun", "tree", "sea", "moon"), "it": ("sole", "albero", "mare", "luna")}


@contextmanager
def inside(root: Path) -> Iterator[None]:
    """The folder as the current one, with the threads that a stage sees."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for variable in runtime.THREAD_VARIABLES:
            patch.setenv(variable, "1")
        yield


def run(module: Any, key: str, section: str = "") -> int:
    name = module.__name__.rpartition(".")[2]
    return execute(name, key, module.Params, module.cost, module.run, section or name)


def take_in(*sources: str) -> None:
    for source in sources:
        assert run(ingest, source, "sources") == run(validate, source, "sources") == 0


def report(stage: str, key: str, file: str) -> Any:
    return json.loads(Path(f"reports/{stage}/{key}/{file}").read_text())


def split(source: str, name: str) -> Records:
    return Records(Path("data/shards", source, name), Path("data/index", source, name))


def serve(folder: Path, stage: str, kind: str) -> None:
    """Say of a trained model's folder what the stage optimise would."""
    about = {"stage": stage, "kind": kind, "variant": "plain"}
    (folder / "serve.json").write_text(json.dumps(about))


def tar(path: Path, records: list[tuple[bytes, dict[str, Any]]], extension: str) -> None:
    """Media beside their JSON."""
    with tarfile.open(path, "w") as file:
        for number, (media, fields) in enumerate(records):
            for name, data in ((extension, media), ("json", json.dumps(fields).encode())):
                about = tarfile.TarInfo(f"{number:04d}.{name}")
                about.size = len(data)
                file.addfile(about, io.BytesIO(data))


def pictures(count: int, seed: int, light: float = 0.0, kind: str = "png") -> list[tuple[bytes, dict[str, Any]]]:
    """Two coloured halves, and what they are. light: share of white in them, beside a little chance."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        left, right = (list(COLOURS)[int(i)] for i in rng.permutation(4)[:2])
        pixels = np.repeat([[COLOURS[left]] * 12 + [COLOURS[right]] * 12], 24, axis=0)
        pixels = 255 - (255 - pixels) * (1 - light) * rng.uniform(0.85, 1)
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, {"jpg": "jpeg"}.get(kind, kind))
        changed = [f"{right} at the left and {left} at the right"]
        fields = {"text": f"{left} at the left and {right} at the right", "label": left, "changed": changed}
        made.append((file.getvalue(), fields | {"artist": f"a{number % 3}"}))
    return made


def sounds(count: int, seed: int, level: float = 0.05, kind: str = "WAV") -> list[tuple[bytes, dict[str, Any]]]:
    """A tone for each of two words. level: amplitude, beside a little chance."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        words = [list(TONES)[int(i)] for i in rng.integers(len(TONES), size=2)]
        time = np.arange(RATE // 5) / RATE
        wave = np.concatenate([np.sin(2 * np.pi * TONES[word] * time) for word in words])
        wave = level * rng.uniform(0.7, 1.3) * (wave + 0.05 * rng.normal(size=wave.size))
        file = io.BytesIO()
        soundfile.write(file, wave, RATE, format=kind)
        made.append((file.getvalue(), {"text": " ".join(words), "voice": f"v{number % 3}"}))
    return made


def texts(count: int, seed: int, language: str = "en") -> str:
    """JSON lines of a few words of a language."""
    rng = np.random.default_rng(seed)
    rows = [{"text": " ".join(rng.choice(LANGUAGES[language], 4)), "language": language} for _ in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows)
