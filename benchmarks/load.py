"""Requests from many clients at once, each on a connection that is kept, and how long they took.

The client is bare HTTP/1.1 over asyncio: a client library takes a millisecond of its own, as long as what is measured.
"""

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np


def packed(url: str, path: str, method: str = "POST", **body: object) -> bytes:
    """A request as it goes over the line. body: httpx's `json`, `data` or `files`."""
    request = httpx.Request(method, url + path, **body)  # type: ignore[arg-type]
    content = request.read()
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + content


@dataclass
class Taken:
    """Seconds of the requests that were answered, in order, and what went wrong with the others."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    wall: float = 0.0  # seconds of all

    def summary(self) -> dict[str, float]:
        """p50 and p99 in milliseconds, requests a second."""
        p50, p99 = np.percentile(self.seconds, (50, 99)).tolist()
        return {"p50": p50 * 1e3, "p99": p99 * 1e3, "throughput": len(self.seconds) / self.wall}


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, bytes]:
    """Status and body of one answer, whole or in chunks."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    if b"transfer-encoding: chunked" not in head:
        size = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        return status, await reader.readexactly(size)
    body = bytearray()
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return status, bytes(body)


async def _client(url: str, requests: Iterator[bytes], until: float, taken: Taken) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    while time.perf_counter() < until:
        started = time.perf_counter()
        status, body = await ask(reader, writer, next(requests))
        if status < 300 and b'"error":' not in body:
            taken.seconds.append(time.perf_counter() - started)
        else:
            taken.failures.append(f"{status} {body[:200]!r}")
    writer.close()


def load(url: str, requests: Sequence[bytes], clients: int, seconds: float) -> Taken:
    """Have so many clients ask for so long, each its next request when the one before is answered."""
    taken, turn = Taken(), itertools.cycle(requests)

    async def run() -> None:
        started = time.perf_counter()
        await asyncio.gather(*(_client(url, turn, started + seconds, taken) for _ in range(clients)))
        taken.wall = time.perf_counter() - started

    asyncio.run(run())
    return taken
