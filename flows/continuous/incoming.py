"""New data as they arrive in a folder or a bucket (any address that fsspec reads), taken in by their content.

`arrived` looks at names, sizes and times or etags alone, as often as one likes. `take` copies, and hashes what it has
copied: files that arrive meanwhile make another state, and the same files in another place the same one. A file whose
name begins with a dot is still being written.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from flows.workspace import Refused

SEEN = "seen.json"  # in a store: state by what `arrived` said when it was taken


def arrived(source: str) -> str:
    """What lies there, as 16 hex digits; empty where nothing does. Refused: it cannot be read."""
    entries = [[name, _mark(about)] for name, _, about in _files(source)]
    return _digest(json.dumps(entries).encode()) if entries else ""


def take(source: str, store: Path) -> str:
    """Copy what lies there to `store`/STATE, whole or not at all, and name its state: a hash of names and contents.

    It takes the place of the state before; one that is there already is not copied again. Refused: there is nothing, or
    it cannot be read.
    """
    store.mkdir(parents=True, exist_ok=True)
    mark = arrived(source)
    if not mark:
        raise Refused(f"{source}: no file has arrived there: put the new records there, and start again")
    known = seen(store).get(mark)
    if known and (store / known).is_dir():
        return known
    draft = store / ".part"
    shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed; of two at once the lock of the name keeps one
    try:
        fs, _ = _system(source)
        for name, place, _ in _files(source):
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(place, str(draft / name))
        state = _content(draft)
        if not (store / state).is_dir():
            draft.rename(store / state)
    except OSError as error:
        raise Refused(f"{source}: not taken in: {error}: nothing was changed") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _remember(store, mark, state)
    for older in store.iterdir():
        if older.is_dir() and older.name != state:
            shutil.rmtree(older)
    return state


def seen(store: Path) -> dict[str, str]:
    """What has been taken in: state by what `arrived` said."""
    return json.loads((store / SEEN).read_text()) if (store / SEEN).exists() else {}


def _remember(store: Path, mark: str, state: str) -> None:
    from components.data.durable import write_whole

    write_whole(store / SEEN, json.dumps(seen(store) | {mark: state}, indent=1).encode())


def _files(source: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name below the source, address, what the file system says) of each file, in the order of their names."""
    fs, root = _system(source)
    try:
        fs.invalidate_cache()
        found = fs.find(root, detail=True) if fs.exists(root) else {}
    except OSError as error:
        raise Refused(f"{source}: cannot be read: {error}") from error
    for place, about in sorted(found.items()):
        name = PurePosixPath(place).relative_to(root) if place != root else PurePosixPath(PurePosixPath(place).name)
        if not any(part.startswith(".") for part in name.parts):
            yield str(name), place, about


def _system(source: str) -> tuple[Any, str]:
    try:
        return fsspec.core.url_to_fs(source)
    except (ImportError, ValueError) as error:
        raise Refused(f"{source}: no such kind of address: {error}") from error


def _mark(about: dict[str, Any]) -> list[Any]:
    return [about["size"], str(about.get("ETag") or about.get("mtime") or about.get("LastModified"))]


def _content(folder: Path) -> str:
    parts = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            parts.append([str(path.relative_to(folder)), hashlib.file_digest(file, "sha256").hexdigest()])
    return _digest(json.dumps(parts).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
