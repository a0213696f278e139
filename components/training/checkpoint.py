"""Checkpoints that a kill, a full disk or a flipped bit cannot turn into a wrong start.

A checkpoint is a folder `step-N` with tensors.safetensors, state.json and SHA256SUMS (which `sha256sum -c` reads). It
is written as `partial`, synced and renamed, so that it is there whole or not at all; its sums are verified on reading;
the last two are kept, and the older serves where the newer is damaged. Nothing in it can run code.
"""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from components.durable import sync
from components.training.weights import write_tensors

KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


@contextmanager
def held(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Own the folder; a second process with the same key waits here and then finds the work done.

    A POSIX lock: it dies with the process, and the loader's workers do not inherit it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say(f"another process trains with the checkpoints in {folder}: waiting for it")
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write one checkpoint and drop those before the last two. OSError (a full disk): the earlier ones stay whole."""
    partial = folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        write_tensors(partial / "tensors.safetensors", tensors)
        (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
        (partial / "SHA256SUMS").write_text(sums(partial))
        for path in [*partial.iterdir(), partial]:
            sync(path)
        partial.rename(folder / f"step-{step:09d}")
        sync(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in steps(folder)[:-KEPT]:
        shutil.rmtree(old)


def newest(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The last whole checkpoint, or None; says which ones are damaged, and drops them."""
    for path in reversed(steps(folder)):
        try:
            if (path / "SHA256SUMS").read_text() != sums(path):
                raise ValueError("its checksum does not match")
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            return Checkpoint(int(path.name.removeprefix("step-")), load_file(path / "tensors.safetensors"), state)
        except (OSError, ValueError, SafetensorError) as error:
            say(f"checkpoint {path} is damaged ({error}): going back to the one before, or to the start")
            shutil.rmtree(path)
    return None


def clear(folder: Path) -> None:
    for path in steps(folder):
        shutil.rmtree(path)


def steps(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(folder.glob("step-*"))


def sums(path: Path) -> str:
    lines = []
    for name in ("tensors.safetensors", "state.json"):
        with open(path / name, "rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)
