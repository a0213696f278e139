"""A source, whatever its layout, as records with the split that each belongs to."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.data.config import MEDIA, Source, Split
from components.data.files import SourceError
from components.data.layouts import LAYOUTS, Missing, Raw
from components.data.shards import Record

FIELDS = {  # of the layouts that know their own
    "idx": {"image": "png", "label": "label"},
    "text": {"text": "text"},
}
HELD: tuple[Split, ...] = ("test", "valid")
OUT = "filtered"  # stands for a split: records that the filter leaves out


def records(source: Source) -> Iterator[tuple[str, Record]]:
    """(split, record) for all of a source; the split is OUT where the filter drops the record.

    Raises SourceError for files that are missing or damaged as a whole."""
    if source.world is not None:
        from components.data.world.views import generate  # no other source depends on the generator

        yield from generate(source.world, source.seed)
        return
    for split, files in _files(source).items():
        for raw in LAYOUTS[source.layout](files):
            yield _place(raw, split, source), _record(raw, source)


def classes(source: Source) -> tuple[str, ...]:
    """The classes that the parameters state or the generator knows; none where train's records say them."""
    if source.world is not None:
        from components.data.world import views

        return views.classes(source.world)
    return source.classes


def _files(source: Source) -> dict[str, list[Path]]:
    path = Path(source.path)
    if not path.exists():
        raise SourceError(f"{path} is missing: correct `path`, or put the data there")
    if path.is_file():
        if source.splits:
            raise SourceError(f"{path} is one file, all train: leave `splits` out and use `held_out`")
        return {"train": [path]}
    if not source.splits:
        raise SourceError(f"{path} is a folder: say which files are train, as in `splits: {{train: '*.tar'}}`")
    found: dict[str, list[Path]] = {}
    for split, pattern in source.splits.items():
        found[split] = sorted(file for file in path.glob(pattern) if file.is_file())
        if not found[split]:
            names = ", ".join(sorted(file.name for file in path.iterdir())[:8])
            raise SourceError(f"{path}: no file is called {pattern} (split {split}); there are {names}")
    return found


def _place(raw: Raw, split: str, source: Source) -> str:
    """The split of a record, by filter and held_out. Damaged ones stay where their file belongs."""
    try:
        if any(raw.find(location) != value for location, value in source.filter.items()):
            return OUT
        if split != "train":
            return split
        share = 0.0
        for name in HELD:
            held = source.held_out.get(name)
            if held is None:
                continue
            if any(_text(raw.find(location)) in values for location, values in held.where.items()):
                return name
            if held.share:
                share += held.share
                if _fraction(raw, held.by, source.seed) < share:
                    return name
    except (Missing, ValueError) as error:
        raw.problem = raw.problem or _reason(error)
    return split


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    return str(error.args[0])


def _fraction(raw: Raw, by: str, seed: int) -> float:
    """0..1: where among all the record stands; hashed, or for plain text counted from the end."""
    if raw.position is not None:
        return 1 - raw.position
    key = _text(raw.find(by)) if by else raw.key
    return int.from_bytes(hashlib.blake2b(f"{seed}/{key}".encode("utf-8", "replace"), digest_size=7).digest()) / 2**56


def _record(raw: Raw, source: Source) -> Record:
    record = Record(raw.key, problem=raw.problem)
    for name, location in (FIELDS.get(source.layout) or source.fields).items():
        if record.problem is not None:
            break
        try:
            _set(record, name, location, raw, source)
        except (Missing, ValueError) as error:
            record.problem = f"{name}: {_reason(error)}"
    return record


def _set(record: Record, name: str, location: str, raw: Raw, source: Source) -> None:
    """Several locations, as in `png|jpg`, are tried in turn."""
    present = [place for place in location.split("|") if place.partition(".")[0] in raw.members or place in raw.members]
    location = present[0] if present else location
    value = raw.find(location)
    if name in MEDIA:
        if not isinstance(value, bytes):
            raise ValueError(f"no {name} file")
        record.media, record.extension = value, location
    elif name == "label":
        record.fields[name] = label(value, source.classes)
    elif isinstance(value, bytes):
        record.fields[name] = value.decode("utf-8").strip()
    elif name == "text" and not isinstance(value, str):
        raise ValueError("not a text")
    else:
        record.fields[name] = value


def label(value: Any, classes: tuple[str, ...]) -> str:
    """The name of a class, from a name or a whole number. Raises ValueError for what is no class."""
    if isinstance(value, bool) or not isinstance(value, int | str | bytes):
        raise ValueError("a label is a name or a whole number")
    name = _text(value).strip()
    if classes and name not in classes:
        if not name.isdecimal() or int(name) >= len(classes):
            raise ValueError(f"unknown label {name}")
        name = classes[int(name)]
    if not name:
        raise ValueError("empty label")
    return name


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
