"""New data as they arrive in a folder or a bucket (any address that fsspec reads), taken in by their content.

`arrived` looks at names, sizes and times or etags alone, as often as one likes. `take` copies, and hashes what it has
copied: files that arrive meanwhile make another state, and the same files in another place the same one. A file whose
name begins with a dot is still being written. A folder may go on filling: what main has of it is not new again, by the
content of each file.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from components.durable import write_whole
from flows.continuous.generation import PINNED
from flows.releases.materialise import Objects
from flows.workspace import Refused, git, parse_yaml

SEEN = "seen.json"  # in a store: state by what `arrived` said when it was taken; empty where nothing was new


def arrived(source: str) -> str:
    """What lies there, as 16 hex digits; empty where nothing does. Refused: it cannot be read."""
    entries = [[name, _mark(about)] for name, _, about in _files(source)]
    return _digest(json.dumps(entries).encode()) if entries else ""


def take(source: str, store: Path, records: Iterable[str] = (), known: Collection[str] = ()) -> str:
    """Copy what lies there to `store`/STATE, whole or not at all, and name its state: a hash of names and contents.

    It takes the place of the state before; one that is there already is not copied again.

    Args:
        records: patterns of the files that hold records; none: all do.
        known: MD5 of files of records that are left out.

    Returns:
        The state; empty where no file of records is left.

    Raises:
        Refused: it cannot be read.
    """
    store.mkdir(parents=True, exist_ok=True)
    mark = arrived(source)
    state = seen(store).get(mark, "")
    if not mark or (state and (store / state).is_dir() and not _apart(store / state, records, known)[1]):
        return state
    draft = store / ".part"
    shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed; of two at once the lock of the name keeps one
    try:
        fs, _ = _system(source)
        for name, place, _ in _files(source):
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(place, str(draft / name))
        new, old = _apart(draft, records, known)
        for path in old:
            path.unlink()
        state = _content(draft) if new else ""
        if state and not (store / state).is_dir():
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


def taken(root: Path, name: str, main: str, but: str) -> set[str]:
    """MD5 of the files that generations of a name have brought to main, what it is trained on already: all generations
    but one, whose source is `but`.

    Raises:
        Refused: they are neither in the cache nor on the remote.
    """
    found: set[str] = set()
    with closing(Objects(root, print)) as objects:
        for path in git(root, "ls-tree", "--name-only", main, f"{PINNED}/").split():
            if re.fullmatch(rf"{PINNED}/(?!{but}){re.escape(name)}_[0-9a-f]{{12}}\.dvc", path):
                (out,) = parse_yaml(git(root, "show", f"{main}:{path}"))["outs"]
                found |= {each["md5"] for each in json.loads(objects.content(path, out["md5"]))}
    return found


def seen(store: Path) -> dict[str, str]:
    """What has been taken in: state by what `arrived` said."""
    return json.loads((store / SEEN).read_text()) if (store / SEEN).exists() else {}


def _apart(folder: Path, records: Iterable[str], known: Collection[str]) -> tuple[list[Path], list[Path]]:
    """The files of records: those that are new, and those that are known."""
    sides: tuple[list[Path], list[Path]] = ([], [])
    for path in {path for pattern in list(records) or ["**/*"] for path in folder.glob(pattern) if path.is_file()}:
        with path.open("rb") as file:
            sides[hashlib.file_digest(file, "md5").hexdigest() in known].append(path)
    return sides


def _remember(store: Path, mark: str, state: str) -> None:
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
