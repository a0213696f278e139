"""Looks at the machine and the checkout, and says what is wrong with them and how to mend it.

Each check tries what a run will need: a file is written to the remote, a table made in the database, every served file
hashed. It changes nothing else, and takes away again what it made. A check that fails in a way that nobody thought of
is a finding too.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TookTooLong
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import Literal

import psutil
from rich.markup import escape
from rich.table import Table

from flows.machine import find_devices

PATIENCE = 30.0  # seconds for one check: a remote that does not answer would keep us for half an hour
DISK_LOW, DISK_FULL = 10e9, 1e9  # bytes: the demo's cache, store and environment take 8 GB; a checkpoint under 1
MEMORY_LOW = 4e9  # bytes: two stages of the demo side by side
COLOURS = {"ok": "green", "warn": "yellow", "wrong": "red"}


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and what to do about it."""

    area: str
    verdict: Literal["ok", "warn", "wrong"]  # warn: something will not work, or not well; wrong: runs will fail
    said: str
    remedy: str = ""


@dataclass(frozen=True)
class Place:
    """What is looked at."""

    root: Path  # the checkout
    serving: Path  # the serving folder


Check = Callable[[Place], Iterator[Finding]]


def examine(root: Path, serving: Path, patience: float = PATIENCE) -> list[Finding]:
    """All findings, those of the machine first. A check that takes longer than `patience` seconds is wrong."""
    from flows import doctor_services as services

    checks: dict[str, Check] = {
        "python": python,
        "packages": packages,
        "machine": machine,
        "gpu": gpu,
        "git": git,
        "cache": services.cache,
        "remote": services.remote,
        "locks": services.locks,
        "prefect": services.prefect,
        "database": services.database,
        "serving": services.serving,
        "chromium": chromium,
        "voices": voices,
    }
    found: list[Finding] = []
    for area, check in checks.items():
        try:
            found += _within(patience, check, Place(root.resolve(), serving.resolve()))
        except TookTooLong:
            found.append(Finding(area, "wrong", f"no answer within {patience:.0f} s", "see whether it can be reached"))
        except Exception as error:  # whatever it is, the other checks go on
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            found.append(Finding(area, "wrong", reason, "mend what it names, or report this as a fault of `doctor`"))
    return found


def _within(seconds: float, check: Check, place: Place) -> list[Finding]:
    """In a thread of its own, which is left alone if it hangs: a process can end with it."""
    answer: Future[list[Finding]] = Future()

    def work() -> None:
        try:
            answer.set_result(list(check(place)))
        except Exception as error:
            answer.set_exception(error)

    Thread(target=work, daemon=True).start()
    return answer.result(seconds)


def table(findings: list[Finding]) -> Table:
    """The findings for a terminal, remedies under what they mend."""
    rows = Table("", "what", "found", box=None, pad_edge=False)
    for each in findings:
        remedy = f"\n[bold]{escape(each.remedy)}[/]" if each.remedy else ""
        rows.add_row(f"[{COLOURS[each.verdict]}]{each.verdict}[/]", each.area, escape(each.said) + remedy)
    return rows


def as_json(findings: list[Finding]) -> str:
    """The findings for a program."""
    return json.dumps([asdict(each) for each in findings], indent=2)


def python(_: Place) -> Iterator[Finding]:
    """The version that requirements.lock was made for."""
    if sys.version_info[:2] == (3, 11):
        yield Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")
    else:
        said = f"{platform.python_version()}, the lock is for 3.11"
        yield Finding("python", "wrong", said, "install Python 3.11, remove .venv, and `make test`")


def packages(place: Place) -> Iterator[Finding]:
    """What is installed against requirements.lock: bits depend on versions."""
    lines = (place.root / "requirements.lock").read_text().splitlines()
    pinned = [line.partition(";")[0].rstrip(" \\").split("==") for line in lines if "==" in line and line[0] != " "]
    missing, other = [], []
    for name, version in pinned:
        try:
            found = metadata.version(name.partition("[")[0])
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if found.partition("+")[0] != version.strip():
            other.append(f"{name} {found} instead of {version}")
    remedy = "remove .venv/installed.sha256 and `make test`: it installs requirements.lock"
    if missing:
        yield Finding("packages", "wrong", f"{len(missing)} of the lock are missing: {_some(missing)}", remedy)
    if other:
        yield Finding("packages", "warn", f"{len(other)} are other versions: {_some(other)}", remedy)
    if not (missing or other):
        yield Finding("packages", "ok", f"all {len(pinned)} of requirements.lock")


def machine(place: Place) -> Iterator[Finding]:
    """Cores, threads, memory and disk."""
    cores = len(os.sched_getaffinity(0))
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads and threads.isdigit() and int(threads) > cores:
        said = f"OMP_NUM_THREADS={threads} on {cores} cores"
        yield Finding("cores", "warn", said, "unset OMP_NUM_THREADS: stages set their own threads")
    else:
        yield Finding("cores", "ok", f"{cores} usable, load {os.getloadavg()[0]:.1f}")
    free = psutil.virtual_memory().available
    said = f"{free / 1e9:.1f} GB of {psutil.virtual_memory().total / 1e9:.1f} GB available"
    if free < MEMORY_LOW:
        yield Finding("memory", "warn", said, "close other programs, or run with fewer slots")
    else:
        yield Finding("memory", "ok", said)
    for folder in {_existing(place.root), _existing(place.serving)}:
        free = shutil.disk_usage(folder).free
        verdict = "wrong" if free < DISK_FULL else "warn" if free < DISK_LOW else "ok"
        remedy = "" if verdict == "ok" else "free some: `dvc gc -w -T` keeps what this commit and the versions need"
        yield Finding("disk", verdict, f"{free / 1e9:.1f} GB free at {folder}", remedy)


def gpu(_: Place) -> Iterator[Finding]:
    """Devices and driver; none is well, but stages with `device: cuda` are refused then."""
    if not shutil.which("nvidia-smi"):
        yield Finding("gpu", "ok", "none: stages whose device is cuda are refused")
        return
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.free", "--format=csv,noheader"]
    done = subprocess.run(query, check=False, capture_output=True, text=True)
    if done.returncode:
        said = f"nvidia-smi fails: {_last(done.stdout + done.stderr)}"
        yield Finding("gpu", "warn", said, "load the NVIDIA driver (580 or newer for this torch), or use `device: cpu`")
        return
    visible = len(find_devices())
    yield Finding("gpu", "ok", f"{'; '.join(done.stdout.strip().splitlines())}; {visible} visible to runs")


def git(place: Place) -> Iterator[Finding]:
    """A repository with a commit, an author, and no lock of a git that is gone."""
    from flows.workspace import Refused, git

    try:
        head = git(place.root, "log", "-1", "--format=%h %s").strip()
    except Refused as error:
        yield Finding("git", "wrong", str(error), "`git init`, and commit; or clone the project")
        return
    changed = len(git(place.root, "status", "--porcelain").splitlines())
    yield Finding("git", "ok", f"at {head}" + (f", {changed} files changed or new" if changed else ", clean"))
    try:
        git(place.root, "var", "GIT_COMMITTER_IDENT")
    except Refused as error:
        remedy = "`git config user.name NAME` and `git config user.email ADDRESS`: a version's tag has an author"
        yield Finding("git", "wrong", f"nobody to tag as: {error}", remedy)
    lock = place.root / git(place.root, "rev-parse", "--git-path", "index.lock").strip()
    if lock.exists():
        yield Finding("git", "wrong", f"{lock} is held", "if no git runs here, remove it")


def chromium(_: Place) -> Iterator[Finding]:
    """For pictures and tests of pages only."""
    path = shutil.which("chromium")
    if path:
        yield Finding("chromium", "ok", path)
    else:
        yield Finding("chromium", "warn", "none: pages are not tested", "Debian: `apt-get install chromium`")


def voices(_: Place) -> Iterator[Finding]:
    """The generated world speaks English and Japanese."""
    import espeakng_loader

    folder = Path(espeakng_loader.get_data_path())
    missing = [name for name in ("en_dict", "ja_dict") if not (folder / name).is_file()]
    if missing:
        said = f"{', '.join(missing)} missing in {folder}"
        yield Finding("voices", "wrong", said, "install espeakng-loader again, as requirements.lock has it")
    else:
        yield Finding("voices", "ok", "espeak-ng with English and Japanese")


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _last(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")
