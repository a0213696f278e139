"""What a server is told when it starts, and the limits that it holds its clients to. Free of torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from components.inference.batching import BatchConfig


@dataclass(frozen=True)
class Limits:
    """Above each of these a request is refused, before anything is computed or decoded."""

    body: int = 8 * 2**20  # bytes of a request
    body_seconds: float = 30.0  # that a body may take to arrive
    depth: int = 32  # brackets open at once in JSON
    characters: int = 100_000  # of a prompt or a text
    texts: int = 256  # of one request for embeddings or classes
    sound_seconds: float = 60.0
    channels: int = 8  # of a sound
    pixels: int = 8_000_000  # of a picture; decoded and resized in float32 it takes 27 bytes each
    rate: float = 100.0  # requests a second and key, in the long run
    burst: float = 400.0  # and at once


@dataclass(frozen=True)
class Settings:
    """Raises ValueError for a figure out of its range."""

    serving: Path  # the folder of pointer files, one a served name
    keys: Path | None = None  # hashed API keys (keys.py); None: open to all who reach it, on a loopback address only
    database: str = ""  # SQLAlchemy's URL for traffic; empty: TSUMUGI_DATABASE, or SQLite in `serving`
    pictures: Path | None = None  # what is searched: a folder of shards or of pictures
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1  # of torch, for each model that computes
    slots: int = 16  # streams that a decoder decodes together
    batch: BatchConfig = field(default_factory=BatchConfig)
    timeout: float = 60.0  # seconds that an answer may take, unless x-request-timeout asks for fewer
    poll: float = 0.5  # seconds between two looks at the pointers
    retry: float = 30.0  # seconds before a version that could not be loaded is tried again
    shadows: int = 4  # requests that shadows compute at once; more are left out
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name in ("threads", "slots", "timeout", "poll", "retry"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: it must be above 0")
