"""New records with a replay of old ones, in the form of a set that ingest takes in like any other.

Replay is the plainest remedy against forgetting, and hard to beat (Rolnick et al. 2019, "Experience replay for
continual learning"). Which old records are replayed is a hash of their key and the seed: independent of order, and a
larger share keeps all that a smaller one had. Test splits go along whole, old and new, so that the next generation is
still judged on what this one was; each record says where it came from first (`origin`).
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from components.data.config import MEDIA, Kind
from components.data.shards import Record

ORIGIN = "origin"
SIGNATURES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "wav", b"fLaC": "flac", b"OggS": "ogg"}


def replayed(key: str, share: float, seed: int) -> bool:
    """Whether an old record is among the `share` (0 to 1) that is replayed."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def records(
    source: str, split: Sequence[dict[str, Any]], kind: Kind, classes: Sequence[str], share: float, seed: int
) -> Iterator[Record]:
    """The records of a split (components/data/records.py) on their way into another set, a share of them."""
    for record in split:
        if replayed(record["key"], share, seed):
            fields = {name: value for name, value in record.items() if name not in ("key", *MEDIA)}
            if "label" in fields:
                fields["label"] = classes[fields["label"]]
            fields.setdefault(ORIGIN, source)
            media = None if kind == "text" else record[kind]
            key = f"{source}/{record['key']}".replace(".", "_")  # in a tar, the first dot ends the name
            yield Record(key, fields, media, extension(media, kind) if media else "")


def extension(media: bytes, kind: Kind) -> str:
    """Of a picture's or sound's file, by how it begins; the kind's name for a format that is not known here."""
    if media[:4] == b"RIFF" and media[8:12] == b"WEBP":
        return "webp"
    return next((name for signature, name in SIGNATURES.items() if media.startswith(signature)), kind)
