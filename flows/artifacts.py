"""What a stage leaves in Prefect's UI: metrics, pictures, where its files came from; and the table of a run.

A picture stands inside a markdown artifact as a data URI, because that is what the UI shows without any file server; so
it is made small first. The DVC hashes in the lineage table are those of dvc.lock: the same input in two runs has the
same one.
"""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.graph import Record

WIDEST = 1200  # pixels of a picture that is larger than SMALL
SMALL = 150_000  # bytes that a picture may have as it is
ALL = 2_000_000  # bytes of all pictures of a stage
MIME = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".gif": "gif", ".webp": "webp", ".svg": "svg+xml"}


def publish(record: Record) -> None:
    """Create the artifacts of one stage, in the task run that calls this."""
    values = list(metrics(record))
    if values:
        rows = [{"metric": name, "value": value} for name, value in values]
        create_table_artifact(rows, key=key("metrics", record.name), description=f"Metrics of {record.name}")
    pictures = list(_pictures(record))
    if pictures:
        create_markdown_artifact(
            "\n\n".join(pictures), key=key("pictures", record.name), description=f"Pictures of {record.name}"
        )
    rows = [
        {"": file.role, "path": file.path, "hash": file.hash, "bytes": file.size, "files": file.files}
        for file in record.files
    ] + [{"": "parameter", "path": name, "hash": str(value)} for name, value in record.params.items()]
    create_table_artifact(rows, key=key("lineage", record.name), description=f"Inputs and outputs of {record.name}")


def metrics(record: Record) -> Iterator[tuple[str, Any]]:
    """(name, value) of every value in the stage's metrics files, in the file's order: the main one stands first."""
    from dvc.utils.serialize import LOADERS

    for file in record.files:
        path = Path(file.path)
        if file.kind == "metric" and path.is_file():
            yield from _flat(LOADERS[path.suffix.lower()](str(path)))


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for part, inner in value.items():
            yield from _flat(inner, f"{name}.{part}" if name else str(part))
    else:
        yield name or "value", value


def _pictures(record: Record) -> Iterator[str]:
    room = ALL
    for path in _picture_files(record):
        data, kind = _small(path)
        if len(data) > room:
            yield f"{path}: left out, the pictures of a stage may have {ALL / 1e6:g} MB here"
            continue
        room -= len(data)
        yield f"**{path}**\n\n![{path.name}](data:image/{kind};base64,{base64.b64encode(data).decode()})"


def _picture_files(record: Record) -> Iterator[Path]:
    for file in record.files:
        path = Path(file.path)
        if file.role == "output" and path.suffix.lower() in MIME:
            yield path
        elif file.kind == "plot" and path.is_dir():
            yield from (inner for inner in sorted(path.rglob("*")) if inner.suffix.lower() in MIME)


def _small(path: Path) -> tuple[bytes, str]:
    data, kind = path.read_bytes(), MIME[path.suffix.lower()]
    if len(data) <= SMALL or kind == "svg+xml":
        return data, kind
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        picture.thumbnail((WIDEST, WIDEST))
        out = io.BytesIO()
        picture.convert("RGB").save(out, "jpeg", quality=85)
    return out.getvalue(), "jpeg"


def summarise(rows: list[dict[str, Any]]) -> None:
    """The table of a run, in the flow run that calls this."""
    create_table_artifact(rows, key="pipeline-summary", description="How each stage ended")


def key(kind: str, name: str) -> str:
    """An artifact's key: lower-case letters, digits and dashes are allowed."""
    return f"{kind}-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}"
