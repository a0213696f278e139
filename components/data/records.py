"""Good records of a split: a compact index (offsets into the shards) over memory-mapped files.

    records = Records(Path("data/shards/fsdd/train"), Path("data/index/fsdd/train"))
    records[0]  ->  {"key": "7_jackson_32", "sound": b"RIFF...", "label": 7, "speaker": "jackson"}

A record is its JSON fields, the number of its class as `label`, and the bytes of its picture or sound. Nothing is
copied or unpickled; an index row is six integers, so that a million records cost 48 MB.
"""

import io
import json
import mmap
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.data.config import Kind

if TYPE_CHECKING:
    import torch

INDEX, SHARDS, CLASSES = "records.npy", "records.json", "classes.json"
COLUMNS = ("shard", "media", "media_size", "fields", "fields_size", "label")  # byte offsets and sizes; label -1: none


class Records(Sequence):
    """The good records of one split. `shards`: its folder of shards; `index`: its folder made by validation."""

    def __init__(self, shards: Path, index: Path):
        if not (index / INDEX).is_file():
            raise FileNotFoundError(f"{index} holds no {INDEX}: run the stage validate for this source first")
        about = json.loads((index / SHARDS).read_text())
        self.kind: Kind = about["kind"]
        self.table = np.load(index / INDEX, mmap_mode="r", allow_pickle=False)
        self._classes = index.parent / CLASSES
        self._paths = [shards / name for name in about["shards"]]
        self._maps: dict[int, mmap.mmap] = {}

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, number: int) -> dict[str, Any]:  # type: ignore[override]  # no slices
        shard, media, media_size, fields, fields_size, label = self.table[number].tolist()
        data = self._maps.get(shard) or self._open(shard)
        record = json.loads(data[fields : fields + fields_size])
        if label >= 0:
            record["label"] = label
        if media_size:
            record[self.kind] = data[media : media + media_size]
        return record

    @property
    def labels(self) -> np.ndarray:
        """int64 [n]: the class of each record, -1 where it has none."""
        return np.asarray(self.table[:, COLUMNS.index("label")])

    @property
    def sizes(self) -> np.ndarray:
        """int64 [n]: bytes of each picture or sound, or of the JSON line of a text; a stand-in for its length."""
        column = "fields_size" if self.kind == "text" else "media_size"
        return np.asarray(self.table[:, COLUMNS.index(column)])

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their numbers; the file stands beside the splits' folders."""
        return json.loads(self._classes.read_text())

    def _open(self, shard: int) -> mmap.mmap:
        with self._paths[shard].open("rb") as file:
            data = self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return data


def decode_image(data: bytes) -> "torch.Tensor":
    """uint8 [3, height, width] from PNG, JPEG, GIF or WebP; grey becomes RGB, transparency is laid on white.

    Raises RuntimeError where the bytes are no such picture."""
    import torch
    from torchvision.io import ImageReadMode
    from torchvision.io import decode_image as decode

    image = decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    if image.dtype == torch.uint16:  # 16-bit PNG
        image = (image.int() >> 8).to(torch.uint8)
    channels = image.shape[0]
    if channels in (2, 4):
        colour, alpha = image[:-1].int(), image[-1:].int()
        image = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).to(torch.uint8)
    return image.expand(3, -1, -1) if channels < 3 else image


def decode_sound(data: bytes) -> tuple["torch.Tensor", int]:
    """float32 [samples] in -1..1, channels averaged, and the sample rate in Hz, from WAV, FLAC or OGG.

    Raises soundfile.LibsndfileError where the bytes are no such sound."""
    import soundfile
    import torch

    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return torch.from_numpy(samples.mean(axis=1)), rate
