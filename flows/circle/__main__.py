"""`make circle`: the whole circle as one command, in a folder of its own, of which nothing stays but a page.

    python -m flows.circle [--output DIR]        reports/circle by default: report.html, report.json and what they link

Of what is committed here it makes an origin, a clone with the preset `circle`, a DVC remote; in the clone
flows/circle/story.py starts Prefect, a worker and the models' server, and turns the circle. Whatever comes of it, all
that was started ends, and the folder goes. Exit status: 0 the circle has turned, 1 it has not, 130 interrupted.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from components.durable import write_whole
from flows.circle.page import page
from flows.workspace import ROOT, Refused, check_checkout, git, merge_preset, read_yaml, write_yaml

FOREIGN = ("PREFECT_", "TSUMUGI_", "DVC_", "GIT_")  # variables that would lead out of the clone
CONTINUOUS = {  # over continuous.yaml: verdicts after hundreds of users instead of tens of thousands, looks each second
    "look": 1.0,
    "patience": 1800.0,
    "window": 100,
    "replay": 1.0,
    "compare": {
        "slices": ["label", "origin"],
        "rule": {"forget": 0.05, "slice_loss": 0.15, "slower": 2.0},  # few test records, and a busy machine
    },
    "experiment": {
        "primary": [{"name": "accepted", "kind": "rate", "better": "higher", "effect": 0.1, "baseline": 0.7}],
        "guardrails": [
            {"name": "failed", "kind": "rate", "better": "lower", "effect": 0.05, "baseline": 0.01},
            {"name": "seconds", "kind": "mean", "better": "lower", "effect": 0.25, "deviation": 0.1, "unit": "s"},
        ],
        "alpha": 0.01,  # a verdict that is wrong by chance would break the story
        "least_users": 60,
        "most_users": 4000,
    },
}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m flows.circle", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "reports" / "circle", metavar="DIR")
    output = parser.parse_args().output.resolve()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is to end
    begun = time.time()
    try:
        check_checkout(ROOT)
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        left: list[str] = []
        with place(output, left) as project:
            command = [sys.executable, "-m", "flows.circle.story", str(output)]
            status = subprocess.run(command, cwd=project, env=environment(), check=False).returncode
    except KeyboardInterrupt:
        return 130
    except Refused as error:
        print(f"circle: {error}", file=sys.stderr)
        return 1
    if not (output / "report.json").exists():
        print(f"circle: it has not turned; logs: {output / 'logs'}", file=sys.stderr)
        return status or 1
    ended = {"folder": str(project), "minutes": round((time.time() - begun) / 60, 2), "left_behind": left}
    told: dict[str, Any] = json.loads((output / "report.json").read_text()) | ended
    write_whole(output / "report.json", (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
    write_whole(output / "report.html", page(told).encode())
    print(f"The circle has turned in {ended['minutes']:.1f} minutes: {output / 'report.html'}")
    return status


@contextmanager
def place(output: Path, left: list[str]) -> Iterator[Path]:
    """The clone in a temporary folder; in the end its logs go to `output`, and what had to be killed into `left`."""
    folder = Path(tempfile.mkdtemp(prefix="tsumugi-circle-")).resolve()
    project = folder / "project"
    try:
        make(folder, project)
        yield project
    finally:
        try:
            stop(project, output / "logs")
        finally:
            left += sweep(folder)
            shutil.rmtree(folder)


def stop(project: Path, logs: Path) -> None:
    """End the servers and the worker as `make stop` does, and keep their logs."""
    home = project / ".store" / "prefect"
    if not home.exists():
        return
    command = [sys.executable, "-m", "flows.cli", "stop"]
    subprocess.run(command, cwd=project, env=environment(), check=False, stdout=subprocess.DEVNULL)
    logs.mkdir(exist_ok=True)
    for path in home.glob("*.log"):
        shutil.copy(path, logs)


def make(folder: Path, project: Path) -> None:
    """Origin, clone, DVC remote and settings, committed on main."""
    if git(ROOT, "status", "--porcelain"):
        print("What is not committed here takes no part")
    origin = folder / "origin.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(origin)], check=True)
    git(ROOT, "push", "-q", "--no-verify", str(origin), "HEAD:refs/heads/main")
    subprocess.run(["git", "clone", "-q", str(origin), str(project)], check=True)
    for name, value in (("user.name", "circle"), ("user.email", "circle@localhost")):
        git(project, "config", name, value)
    (project / ".dvc" / "config.local").write_text(
        f"[core]\n    remote = store\n    site_cache_dir = {folder / 'site'}\n"
        f"['remote \"store\"']\n    url = {folder / 'remote'}\n"
    )
    write_yaml(project / "params.yaml", merge_preset(project, project / "presets" / "circle.yaml"))
    continuous = read_yaml(project / "continuous.yaml")
    continuous["text"].update(CONTINUOUS)
    write_yaml(project / "continuous.yaml", continuous)
    prefect = read_yaml(project / "prefect.yaml")
    for deployment in prefect["deployments"]:  # the story calls the watch itself: its clock is too slow for it
        deployment.pop("schedules", None)
    write_yaml(project / "prefect.yaml", prefect)
    git(project, "commit", "-q", "-a", "-m", "Settings of the circle")
    git(project, "push", "-q", "origin", "main")


def environment() -> dict[str, str]:
    """This process's variables without those that lead elsewhere."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return own | {"PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1"}


def sweep(folder: Path) -> list[str]:
    """End what still runs in the folder; the command lines."""
    told = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has ended, or is another user's
            if Path(process.cwd()).is_relative_to(folder):
                told.append(" ".join(process.cmdline()))
                process.kill()
                process.wait(10)
    return told


if __name__ == "__main__":
    sys.exit(main())
