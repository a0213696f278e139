"""A file by HTTP: streamed, resumed after a break, and believed only with the right sha256."""

import hashlib
import os
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from components.data.files import SourceError

BLOCK = 2**20  # bytes
TRIES = 4
WAIT = 1.0  # s before the second try, doubled before each further one
TIMEOUT = 60.0  # s without a byte


def fetch(url: str, sha256: str, target: Path, partial: Path, say: Callable[[str], None]) -> None:
    """Brings `url` to `target`, by way of `partial`, which is kept when the line breaks and continued next time.

    Raises SourceError when the address does not answer or the file is another one than `sha256` says."""
    for attempt in range(TRIES):
        try:
            _stream(url, partial, say)
            break
        except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
            permanent = isinstance(error, HTTPError) and error.code < 500 and error.code not in (408, 429)
            if permanent or attempt == TRIES - 1:
                raise SourceError(f"{url}: {error}: check the address and the network, then start again") from None
            say(f"{error}: trying again")
            time.sleep(WAIT * 2**attempt)
    with partial.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        partial.unlink()
        raise SourceError(f"{url}: its sha256 is {found}, not {sha256}: the file changed, or the sum is wrong")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(partial, target)


def _stream(url: str, partial: Path, say: Callable[[str], None]) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if have and error.code == 416:  # nothing after what is there: complete, or too long and found out by its sum
            return
        raise
    with answer, partial.open("ab" if answer.status == 206 else "wb") as file:
        start = file.tell()
        promised = answer.headers.get("Content-Length")
        total = start + int(promised) if promised else None
        told = start
        while block := answer.read(BLOCK):
            file.write(block)
            if file.tell() - told >= 50 * BLOCK or file.tell() == total:
                told = file.tell()
                say(f"{told / BLOCK:.0f} MiB" + (f" of {total / BLOCK:.0f}" if total else ""))
        if total is not None and file.tell() != total:
            raise ConnectionError(f"the line broke after {file.tell()} of {total} bytes")
