"""Files that others made, read with bounds: gzip is recognised by its first bytes and may not blow up without limit."""

import gzip
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

EXPANSION = 200  # times its size that a compressed file may unpack to; text reaches 20, a bomb 1,000
FREE = 2**20  # bytes that it may unpack to in any case


class SourceError(ValueError):
    """What is wrong with a source, in one line: the file, the reason, the remedy."""


@contextmanager
def unpacked(path: Path) -> Iterator[BinaryIO]:
    """The file, unpacked if it is gzip, open for reading and seeking. Raises SourceError where it does not unpack."""
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            file.seek(0)
            yield file
            return
    with tempfile.TemporaryFile() as plain:
        _unpack(path, plain)  # type: ignore[arg-type]
        plain.seek(0)
        yield plain  # type: ignore[misc]  # a binary file


def _unpack(path: Path, target: BinaryIO) -> None:
    bound = FREE + EXPANSION * path.stat().st_size
    try:
        with gzip.open(path) as file:
            while block := file.read(2**20):
                target.write(block)
                if target.tell() > bound:
                    raise SourceError(f"{path}: unpacks to over {EXPANSION} times its size: a bomb? unpack it yourself")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(f"{path}: does not unpack ({error}): fetch the file again") from None
