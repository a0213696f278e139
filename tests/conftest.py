"""For every test: shapes in signatures are checked, torch computes with one thread, and no process is left behind."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ.update(
    OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", DVC_NO_ANALYTICS="1", DO_NOT_TRACK="1"
)
_hook = install_import_hook("components", "beartype.beartype")  # before any test module imports a component


def _read(path: Path) -> str:
    """Empty for what has just ended."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _children() -> dict[int, str]:
    """The running children of this process: process number -> command line, which is empty once it has ended."""
    pids = {int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in _read(path).split()}
    commands = {pid: _read(Path(f"/proc/{pid}/cmdline")) for pid in pids}
    # multiprocessing keeps its trackers until the end
    return {pid: command for pid, command in commands.items() if command and "multiprocessing" not in command}


@pytest.fixture(autouse=True)
def _no_process_left() -> Iterator[None]:
    before = _children()
    yield
    left = {pid: command.split("\0") for pid, command in _children().items() if pid not in before}
    assert not left, f"the test left processes behind: {left}"
