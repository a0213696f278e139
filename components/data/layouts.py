"""Readers of the layouts in which sets come, each from one split's files to raw records.

A raw record is found by location: a member's extension (`png`, `txt`, `cls`) or a dotted JSON path (`json.digit` in a
tar, `meta.lang` in JSON lines). A record that its layout already shows to be bad carries its problem on; a file that is
damaged as a whole is refused, because nobody knows what it held.
"""

import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from components.data.files import SourceError, unpacked

RECORD = 256 * 2**20  # bytes of a member that is still read
LINE = 16 * 2**20  # bytes of a JSON line that is still read
PIECE = 4096  # bytes: plain text is cut at the last line end before
PIXELS = 2**24  # of one picture


class Missing(LookupError):
    """A record does not have a location."""


@dataclass(slots=True)
class Raw:
    """`members`: a tar record's files by extension, read when asked for; `document`: a JSON line's value."""

    key: str
    members: dict[str, Callable[[], bytes]] = field(default_factory=dict)
    document: Any = None
    position: float | None = None  # 0..1, where it stood in its file, if order means something
    problem: str | None = None

    def find(self, location: str) -> Any:
        """The bytes of a member, or a JSON value. Raises Missing, or ValueError where a member is no JSON."""
        if location in self.members:
            return self.members[location]()
        value, steps = self.document, location.split(".")
        if steps[0] in self.members:
            value, steps = _json(self.members[steps[0]](), steps[0]), steps[1:]
        for step in steps:
            if not isinstance(value, dict) or step not in value:
                raise Missing(f"no {location}")
            value = value[step]
        return value


def read_tar(files: list[Path]) -> Iterator[Raw]:
    """Members that share a name up to the first dot belong together, wherever in the file they stand."""
    for path in files:
        with unpacked(path) as file:
            yield from _group(file, _members(path, file))


def _members(path: Path, file: BinaryIO) -> list[tarfile.TarInfo]:
    found, end = [], 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                end = member.offset_data + (-(-member.size // 512) * 512 if member.isreg() else 0)
                if not member.isdir():
                    found.append(member)
    except tarfile.TarError as error:
        raise SourceError(f"{path}: no whole tar file ({error}): fetch or write it again") from None
    file.seek(end)
    if file.read(512) != bytes(512):  # tarfile ends silently at a damaged header and at a missing end mark
        raise SourceError(f"{path}: the tar file is damaged or cut off at byte {end}: fetch or write it again")
    return found


def _group(file: BinaryIO, members: list[tarfile.TarInfo]) -> Iterator[Raw]:
    records: dict[str, Raw] = {}
    for member in members:
        name = PurePosixPath(member.name)
        stem, _, extension = name.name.partition(".")
        raw = records.setdefault(str(name.with_name(stem or name.name)), Raw(str(name.with_name(stem or name.name))))
        if not member.isreg() or member.issparse():
            raw.problem = f"{member.name} is a link or special file"
        elif member.size > RECORD:
            raw.problem = f"{member.name} is larger than {RECORD // 2**20} MiB"
        elif extension in raw.members:
            raw.problem = f"{member.name} is there twice"
        else:
            raw.members[extension] = _content(file, member)
    yield from records.values()


def _content(file: BinaryIO, member: tarfile.TarInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        file.seek(member.offset_data)
        return file.read(member.size)

    return read


def read_jsonl(files: list[Path]) -> Iterator[Raw]:
    """One JSON object a line; lines end at \\n alone, since texts may hold other line breaks."""
    for path in files:
        with unpacked(path) as file:
            number = 0
            while line := file.readline(LINE):
                raw = Raw(f"{_stem(path)}-{number:06d}")
                if not line.endswith(b"\n") and len(line) == LINE:
                    raw.problem = f"the line is longer than {LINE // 2**20} MiB"
                    while line and not line.endswith(b"\n"):
                        line = file.readline(LINE)
                else:
                    _parse(line, raw)
                number += 1
                if line.strip():
                    yield raw


def _parse(line: bytes, raw: Raw) -> None:
    try:
        raw.document = _json(line, "line")
    except ValueError as error:
        raw.problem = str(error)


def _json(data: bytes, name: str) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: not JSON: {error}") from None


def read_idx(files: list[Path]) -> Iterator[Raw]:
    """MNIST's format: a file of grey pictures (three dimensions) and one of labels (one dimension)."""
    if len(files) != 2:
        raise SourceError(f"layout idx reads two files a split, pictures and labels, not {len(files)}")
    with unpacked(files[0]) as first, unpacked(files[1]) as second:
        pictures, labels = (files[0], first, _header(files[0], first)), (files[1], second, _header(files[1], second))
        if len(pictures[2]) == 1:
            pictures, labels = labels, pictures
        path, file, shape = pictures
        if len(shape) != 3 or len(labels[2]) != 1 or shape[0] != labels[2][0]:
            raise SourceError(f"{path}, {labels[0]}: not as many pictures as labels: shapes {shape}, {labels[2]}")
        for number in range(shape[0]):
            picture, label = file.read(shape[1] * shape[2]), labels[1].read(1)
            document = {"label": label[0]}
            png = _png(picture, shape[2], shape[1])
            yield Raw(f"{_stem(path)}-{number:06d}", {"png": lambda png=png: png}, document)


def _header(path: Path, file: BinaryIO) -> tuple[int, ...]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:3] != b"\x00\x00\x08" or magic[3] not in (1, 3):
        raise SourceError(f"{path}: no idx file of unsigned bytes in one or three dimensions")
    shape = tuple(int.from_bytes(file.read(4), "big") for _ in range(magic[3]))
    start, size = file.tell(), shape[0] * (shape[1] * shape[2] if len(shape) == 3 else 1)
    there = file.seek(0, io.SEEK_END) - start
    if there != size or (len(shape) == 3 and not 0 < shape[1] * shape[2] <= PIXELS):
        raise SourceError(f"{path}: the header promises {shape}, {size} bytes; {there} are there: fetch it again")
    file.seek(start)
    return shape


def _png(pixels: bytes, width: int, height: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.frombytes("L", (width, height), pixels).save(file, "PNG", compress_level=4, compress_type=zlib.Z_FILTERED)
    return file.getvalue()


def read_text(files: list[Path]) -> Iterator[Raw]:
    """Plain text, cut at line ends into pieces of up to 4 KiB which, joined, give the file back."""
    for path in files:
        with unpacked(path) as file:
            total = file.seek(0, io.SEEK_END)
            file.seek(0)
            buffer, number, done = b"", 0, 0
            while buffer := buffer + file.read(PIECE + 4 - len(buffer)):
                size = len(buffer) if len(buffer) <= PIECE else _cut(buffer)  # the former at the end alone
                piece, buffer, done = buffer[:size], buffer[size:], done + size
                raw = Raw(f"{_stem(path)}-{number:06d}", position=done / total)
                try:
                    raw.document = {"text": piece.decode("utf-8")}
                except UnicodeDecodeError as error:
                    raw.problem = f"not UTF-8 at byte {done - size + error.start} of {path.name}"
                number += 1
                yield raw


def _cut(buffer: bytes) -> int:
    end = buffer.rfind(b"\n", 0, PIECE) + 1
    if end == 0:  # one long line: cut before the character that crosses the border
        end = PIECE
        while end > PIECE - 4 and buffer[end] & 0xC0 == 0x80:
            end -= 1
    return end


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


LAYOUTS: dict[str, Callable[[list[Path]], Iterator[Raw]]] = {
    "tar": read_tar,
    "jsonl": read_jsonl,
    "idx": read_idx,
    "text": read_text,
}
