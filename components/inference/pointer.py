"""The pointer: one small JSON file a served name, which says which files the server is to serve.

It is all that the server knows of a registry. A deployment puts a new file in place of the old one; the server sees
another `serial`, hashes what the pointer names, loads it beside what it serves, and swaps. So a pointer is never half
written, and nothing is served that does not have the hashes that were deployed.
"""

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from components.durable import write_whole

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?")  # GTO's names but for `/`: it is a file's and a folder's
MODES = ("canary", "shadow")  # a canary answers its share of the users; a shadow only sees copies of requests


@dataclass(frozen=True)
class Version:
    """A model version on this machine.

    Raises:
        ValueError: a folder that is not absolute, no files, or a file that is not below the folder.
    """

    version: str  # v1.2.0
    commit: str  # of the repository that made it, 40 hex digits
    folder: Path
    files: dict[str, str]  # path in the folder -> SHA-256, 64 hex digits

    def __post_init__(self) -> None:
        if not self.folder.is_absolute():
            raise ValueError(f"version {self.version}: folder {str(self.folder)!r} is not an absolute path")
        if not self.files:
            raise ValueError(f"version {self.version}: files is empty: a version has at least one")
        for file, digest in self.files.items():
            path = PurePosixPath(file)
            if path.is_absolute() or ".." in path.parts or "\0" in file:
                raise ValueError(f"version {self.version}: file {file!r} is not below the version's folder")
            if not re.fullmatch("[0-9a-f]{64}", digest):
                raise ValueError(f"version {self.version}: {file}: {digest!r} is not a SHA-256 of 64 hex digits")


@dataclass(frozen=True)
class Challenger(Version):
    """A version on trial beside the champion.

    Raises:
        ValueError: a share outside [0, 1], or an unknown mode.
    """

    share: float  # of the users (canary) or of the requests (shadow), 0 to 1
    mode: str  # of MODES
    experiment: str  # id in the traffic database

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.share) and 0 <= self.share <= 1):
            raise ValueError(f"challenger {self.version}: share {self.share} is not between 0 and 1")
        if self.mode not in MODES:
            raise ValueError(f"challenger {self.version}: mode {self.mode!r} is none of {', '.join(MODES)}")


@dataclass(frozen=True)
class Pointer:
    """What is served under a name. Each change has the next serial number. Raises ValueError on a name that is no
    file name."""

    name: str
    champion: Version
    challenger: Challenger | None
    serial: int  # 1 and up

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.serial < 1:
            raise ValueError(f"pointer {self.name}: serial {self.serial} is not 1 or more")


def check_name(name: str) -> None:
    """Raise ValueError unless the name can be a served name, and so a part of paths, tags and addresses."""
    if not NAME.fullmatch(name):
        raise ValueError(f"name {name!r} is not letters, digits, - and _, with a letter or digit at both ends")


def place(serving: Path, name: str) -> Path:
    """The pointer's file in a serving folder. Raises ValueError on a name that is none."""
    check_name(name)
    return serving / f"{name}.json"


def read(path: Path) -> Pointer:
    """The pointer in a file.

    Raises:
        FileNotFoundError: nothing was deployed under this name yet.
        ValueError: the file was cut short, or is another kind of file; what a pointer needs and what was found.
    """
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: a pointer is JSON, this is not ({error}): deploy again to replace it") from None
    try:
        pointer = _pointer(found)
    except (ValueError, TypeError, KeyError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: is no pointer: {reason}: deploy again to replace it") from None
    if pointer.name != path.stem:
        raise ValueError(f"{path}: is the pointer of {pointer.name!r}, not of {path.stem!r}: deploy again")
    return pointer


def _pointer(found: Any) -> Pointer:
    fields = _fields(found, "the file", name=str, champion=dict, challenger=(dict, type(None)), serial=int)
    version = {"version": str, "commit": str, "folder": str, "files": dict}
    trial = version | {"share": (int, float), "mode": str, "experiment": str}
    champion = Version(**_fields(fields["champion"], "champion", **version))
    challenger = None
    if fields["challenger"] is not None:
        challenger = Challenger(**_fields(fields["challenger"], "challenger", **trial))
    return Pointer(fields["name"], champion, challenger, fields["serial"])


def _fields(found: Any, where: str, **kinds: Any) -> dict[str, Any]:
    if not isinstance(found, dict) or set(found) != set(kinds):
        has = ", ".join(sorted(found)) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"{where} needs {', '.join(sorted(kinds))} and has {has or 'nothing'}")
    for name, kind in kinds.items():
        if not isinstance(found[name], kind) or isinstance(found[name], bool):
            raise ValueError(f"{where}: {name} is a {type(found[name]).__name__}")
    if not all(isinstance(digest, str) for digest in found.get("files", {}).values()):
        raise ValueError(f"{where}: files maps paths to hashes")
    made = {"folder": Path, "share": float}  # what JSON has no kind for, or two
    return {name: made[name](value) if name in made else value for name, value in found.items()}


def write(path: Path, pointer: Pointer) -> None:
    """Put the pointer in place of the one before it, whole: also when the machine loses power or its disk is full."""
    write_whole(path, (json.dumps(asdict(pointer), default=str, indent=2) + "\n").encode())


def verify(version: Version) -> None:
    """Hash every file of a version.

    Raises:
        ValueError: a file is missing or is not what was deployed; expected and found.
    """
    for name, expected in version.files.items():
        try:
            with (version.folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            found = f"nothing ({error.strerror})"
        if found != expected:
            raise ValueError(
                f"{version.folder / name}: version {version.version} has SHA-256 {expected}, found {found}: "
                "materialise the version again"
            )
