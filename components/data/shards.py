"""Shards: the one form in which all data lies after ingest, whatever layout it came in.

Pictures and sounds: WebDataset tar files (`key.png` beside `key.json`), which `webdataset` reads as well. Texts: JSON
lines. The bytes depend on the records alone (no times, owners or file order of a machine). `walk` goes over the shards
once for validation and yields where each record lies; training reads through that index (records.py).
"""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from components.data.config import Split

LARGEST = 64 * 2**20  # bytes a shard holds at most, if no single record is larger
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@dataclass(slots=True)
class Record:
    """A record on its way in. `fields`: JSON values (text, label, ...); `media`: a picture's or sound's file, if any.

    `problem`: why it is bad, where its layout already showed it; validation quarantines it with this reason."""

    key: str
    fields: dict[str, Any] = field(default_factory=dict)
    media: bytes | None = None
    extension: str = ""  # of the media file: png, jpg, wav, ...
    problem: str | None = None


class ShardWriter:
    """Writes records into `folder`/000000.tar (or .jsonl for text), beginning a new file when one is full."""

    def __init__(self, folder: Path, text: bool):
        folder.mkdir(parents=True)
        self.folder, self.text, self.count = folder, text, 0
        self._files = 0
        self._file: BinaryIO | None = None

    def write(self, record: Record) -> None:
        fields = {"key": record.key, **record.fields}
        if record.problem is not None:
            fields["problem"] = record.problem
        line = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
        if self.text:
            data = line + b"\n"
        else:
            media = b"" if record.media is None else _member(f"{record.key}.{record.extension}", record.media)
            data = media + _member(f"{record.key}.json", line)
        if self._file is None or self._file.tell() + len(data) > LARGEST:
            self._begin()
        assert self._file is not None
        self._file.write(data)
        self.count += 1

    def close(self) -> None:
        """Ends the last shard; a split without records keeps one empty shard, so that its folder exists for all."""
        if self._file is None:
            self._begin()
        assert self._file is not None
        self._file.write(b"" if self.text else bytes(1024))  # a tar ends with two empty blocks
        self._file.close()

    def _begin(self) -> None:
        if self._file is not None:
            self.close()
        self._file = (self.folder / f"{self._files:06d}.{'jsonl' if self.text else 'tar'}").open("wb")
        self._files += 1


def _member(name: str, data: bytes) -> bytes:
    header = tarfile.TarInfo(name)  # mode 644, owner 0, time 0
    header.size = len(data)
    return header.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


@dataclass(slots=True)
class Place:
    """Where a record lies in its shard: byte offsets and sizes (size 0: no media), and the record itself."""

    media: int
    media_size: int
    fields: int
    fields_size: int
    record: Record


def walk(shard: Path) -> Iterator[Place]:
    """The records of one shard, in order."""
    with shard.open("rb") as file:
        yield from _walk_lines(file) if shard.suffix == ".jsonl" else _walk_tar(file)


def _walk_lines(file: BinaryIO) -> Iterator[Place]:
    offset = 0
    for line in file:  # bytes: split on \n only
        yield Place(0, 0, offset, len(line) - 1, _record(line, None, ""))
        offset += len(line)


def _walk_tar(file: BinaryIO) -> Iterator[Place]:
    media, offset, extension = None, 0, ""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            data = content.read()
            if member.name.endswith(".json"):
                size = 0 if media is None else len(media)
                yield Place(offset if size else 0, size, member.offset_data, len(data), _record(data, media, extension))
                media = None
            else:
                media, offset, extension = data, member.offset_data, member.name.rpartition(".")[2]
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile remembers every member


def _record(line: bytes, media: bytes | None, extension: str) -> Record:
    fields = json.loads(line)
    return Record(fields.pop("key"), fields, media, extension, fields.pop("problem", None))
