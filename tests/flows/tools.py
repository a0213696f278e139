"""What the tests of the flows share: git, DVC, and processes."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import psutil

if TYPE_CHECKING:
    from flows.bridge import Bridge, Outlook

T = TypeVar("T")
Make = Callable[..., Path]


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def commit(root: Path) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "a change")


def status(root: Path) -> dict[str, object]:
    """What `dvc status` finds changed."""
    from dvc.repo import Repo

    with chdir(root), Repo(".") as repo:
        return repo.status()


def repro(root: Path, **options: object) -> list[str]:
    """`dvc repro` of everything, without the seconds of importing DVC; the stages that it ran."""
    from dvc.repo import Repo

    with chdir(root), Repo(".") as repo:
        return [stage.addressing for stage in repo.reproduce(all_pipelines=True, **options)]


@contextmanager
def bridge(root: Path) -> "Iterator[Bridge]":
    """A bridge in its repository's root, its graph read; its log lines in `said`."""
    from flows.bridge import Bridge

    with chdir(root):
        said: list[str] = []
        bridge = Bridge(Path("."), said.append)
        bridge.graph()
        bridge.said = said  # type: ignore[attr-defined]
        yield bridge
        bridge.repo.close()


def settle(bridge: "Bridge", name: str) -> "Outlook":
    """Bring one stage up to date as the flow does; what it was."""
    from flows.bridge import Outlook

    work = bridge.begin(name)
    if isinstance(work, Outlook):
        return work
    bridge.run(work, lambda line: None)
    bridge.finish(work)
    return Outlook.RUN


def start(*arguments: object, cwd: Path | None = None, **env: str) -> subprocess.Popen[str]:
    """A Python process; its output is read by communicate()."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until(look: Callable[[], T], seconds: float = 60) -> T:
    """What look() gives as soon as that is true; fails when it is not in time."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)
    return found


def alive(pids: list[int]) -> list[int]:
    """Those of the processes that still run."""
    found = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
