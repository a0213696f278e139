"""Pictures that can be searched: where each lies, and for each version of the towers the vectors of all.

They are a folder of shards as ingest writes them, or of picture files. A picture is asked for by its number in the
list: no part of a path ever comes from a request.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

TYPES = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp"}
CHUNK = 64  # pictures embedded at a time, so that requests get their turn between


@dataclass(frozen=True)
class Picture:
    key: str
    text: str  # its caption, empty where it has none
    path: Path
    offset: int  # in the file, bytes
    size: int

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    @property
    def type(self) -> str:
        """Of the media, by its first bytes."""
        head = self.read()[:12]
        kind = "png" if head.startswith(b"\x89PNG") else "webp" if head[8:12] == b"WEBP" else "jpeg"
        return TYPES[kind]


def find(folder: Path) -> list[Picture]:
    """All pictures of a folder, in the order of their shards or names.

    Raises:
        ValueError: there are none.
    """
    from components.data.shards import walk

    found = []
    for shard in sorted(folder.glob("*.tar")):
        for place in walk(shard):
            if place.media_size and place.record.extension in TYPES and place.record.problem is None:
                text = str(place.record.fields.get("text", ""))
                found.append(Picture(place.record.key, text, shard, place.media, place.media_size))
    files = [path for path in sorted(folder.glob("*")) if path.suffix[1:].lower() in TYPES]
    found += [Picture(path.name, "", path, 0, path.stat().st_size) for path in files]
    if not found:
        raise ValueError(f"{folder} holds no pictures: name a folder of shards (*.tar) or of {', '.join(TYPES)}")
    return found


class PictureIndex:
    """Pictures beside their vectors by one model."""

    def __init__(self, pictures: Sequence[Picture], embed: Callable[[list[dict[str, Any]]], Any]) -> None:
        """embed: records with `image` -> unit vectors [n, space]."""
        self.pictures = pictures
        chunks = [pictures[start : start + CHUNK] for start in range(0, len(pictures), CHUNK)]
        parts = [np.asarray(embed([{"image": each.read()} for each in chunk]), np.float32) for chunk in chunks]
        self.vectors: Float32[np.ndarray, "n space"] = np.concatenate(parts)

    def nearest(self, vector: Float32[np.ndarray, " space"], count: int) -> list[tuple[int, Picture, float]]:
        """The pictures most like a unit vector, best first: number, picture, cosine."""
        scores = self.vectors @ vector
        best = np.argsort(-scores, kind="stable")[:count]
        return [(place, self.pictures[place], float(scores[place])) for place in best.tolist()]
