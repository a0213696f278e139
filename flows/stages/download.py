"""A file by URL, checked against its sha256, to data/downloads/KEY. Costs its time on the line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from annotated_types import MaxLen, MinLen

from flows.stages.runtime import Stage, StageError, start


@dataclass(frozen=True)
class Params:
    url: str  # http or https
    sha256: Annotated[str, MinLen(64), MaxLen(64)]  # of the file, in hexadecimal

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise ValueError(f"url = {self.url}: must begin with http:// or https://; a local file needs no download")
        if set(self.sha256) - set("0123456789abcdef"):
            raise ValueError("sha256 must be 64 small hexadecimal digits, as `sha256sum FILE` prints them")


def cost(params: Params) -> str:
    return f"fetches {params.url}, the disk space of the file twice at most"


def run(params: Params, stage: Stage) -> None:
    from components.data.fetch import fetch
    from components.data.files import SourceError

    store = Path(".store").resolve() / "downloads"  # outlives a failed run, whose outputs are removed
    store.mkdir(parents=True, exist_ok=True)
    target = stage.root / "data" / "downloads" / stage.key
    try:
        fetch(params.url, params.sha256, target, store / f"{params.sha256}.partial", lambda line: print(f"  {line}"))
    except SourceError as error:
        raise StageError(str(error)) from None


if __name__ == "__main__":
    start(__file__, Params, cost, run, "downloads")
