"""What the bridge costs, beside plain `dvc repro` on the same repositories.

    python -m benchmarks.bridge [--json FILE] [--repeat N]      about 3 minutes on two idle cores

A repository of twenty stages, each with eight folders of code among its inputs, like this project's own; one of
twenty trivial stages; one of four stages that sleep for three seconds. A Prefect server is up before anything is timed.
`flow` is the flow run alone, in a process that has run one before; `command` adds the start of the program.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

STAGES = 20
BUDGETS = {  # DESIGN.md of the project: what must hold on two cores
    "up to date: flow over reading the graph": ("s", 1.5),
    "executed: command against one dvc repro": ("x", 2.0),
    "executed: 20 x dvc repro -s against command": ("x, at least", 5.0),
    "four stages of 3 s on four slots: flow": ("s", 5.0),
}


def repository(root: Path, stages: list[str], files: dict[str, str]) -> Path:
    """A DVC repository with these stages, each a line of YAML, and these files."""
    for name, text in {"dvc.yaml": "\n".join(["stages:", *stages]), **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for command in ("git init -q", "dvc init -q", "dvc config core.analytics false"):
        subprocess.run(command.split(), cwd=root, check=True)
    return root


def with_folders(root: Path) -> Path:
    folders = [f"code{i}" for i in range(8)]
    files = {f"{folder}/module{i}.py": f"{folder} = {i}\n" for folder in folders for i in range(12)}
    stages = [
        f"  s{i}: {{cmd: echo {i} > {i}.txt, deps: [{', '.join(folders + ([f'{i - 4}.txt'] if i > 3 else []))}], "
        f"params: [p{i}], outs: [{i}.txt]}}"
        for i in range(STAGES)
    ]
    return repository(root, stages, files | {"params.yaml": "".join(f"p{i}: {i}\n" for i in range(STAGES))})


def trivial(root: Path) -> Path:
    return repository(root, [f"  s{i}: {{cmd: echo {i} > {i}.txt, outs: [{i}.txt]}}" for i in range(STAGES)], {})


def sleeping(root: Path) -> Path:
    return repository(root, [f"  s{i}: {{cmd: sleep 3; echo {i} > {i}.txt, outs: [{i}.txt]}}" for i in range(4)], {})


def fresh(root: Path) -> None:
    """As before any stage ran: no dvc.lock, no outputs, an empty cache."""
    for path in (root / "dvc.lock", *root.glob("*.txt")):
        path.unlink(missing_ok=True)
    shutil.rmtree(root / ".dvc" / "cache", ignore_errors=True)


def seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def command(root: Path, *words: str) -> float:
    return seconds(lambda: subprocess.run(words, cwd=root, check=True, capture_output=True))


def flow_command(root: Path) -> float:
    words = [sys.executable, "-m", "flows.pipeline", "--repo", str(root)]
    return seconds(lambda: subprocess.run(words, check=True, capture_output=True))


def flow(root: Path, slots: int) -> float:
    from flows.pipeline import pipeline

    return seconds(lambda: pipeline(str(root), slots=slots, devices=[]))


def reading(root: Path) -> float:
    from flows.bridge import Bridge

    with chdir(root):
        return seconds(lambda: Bridge(Path(".")).graph())


def measure(folder: Path, repeat: int) -> dict[str, float]:
    """Each figure's median over `repeat` rounds, in seconds."""
    folders, plain, four = (make(folder / make.__name__) for make in (with_folders, trivial, sleeping))
    command(folders, "dvc", "repro", "-q")
    flow(folders, 2)  # imports, connections
    rounds: list[dict[str, float]] = []
    for _ in range(repeat):
        found = {"up to date: reading the graph": reading(folders), "up to date: flow": flow(folders, 2)}
        found["up to date: command"] = flow_command(folders)
        found["up to date: dvc repro"] = command(folders, "dvc", "repro")
        fresh(plain)
        found["executed: dvc repro"] = command(plain, "dvc", "repro")
        fresh(plain)
        found["executed: flow"] = flow(plain, 2)
        fresh(plain)
        found["executed: command"] = flow_command(plain)
        fresh(four)
        found["four stages of 3 s on four slots: flow"] = flow(four, 4)
        rounds.append(found)
    fresh(plain)
    once = sum(command(plain, "dvc", "repro", "-s", f"s{i}") for i in range(STAGES))
    return {name: statistics.median(found[name] for found in rounds) for name in rounds[0]} | {
        "executed: 20 x dvc repro -s": once
    }


def compare(found: dict[str, float]) -> dict[str, float]:
    """The figures that have a budget."""
    return {
        "up to date: flow over reading the graph": found["up to date: flow"] - found["up to date: reading the graph"],
        "executed: command against one dvc repro": found["executed: command"] / found["executed: dvc repro"],
        "executed: 20 x dvc repro -s against command": found["executed: 20 x dvc repro -s"]
        / found["executed: command"],
        "four stages of 3 s on four slots: flow": found["four stages of 3 s on four slots: flow"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds; the median counts (default: 3)")
    arguments = parser.parse_args()
    from flows import server
    from tests.flows.tools import free_port

    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "PREFECT_HOME": f"{folder}/prefect",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
        server.ensure_server(free_port())
        try:
            found = measure(Path(folder), arguments.repeat)
        finally:
            server.stop("server")
    figures = compare(found)
    for name, value in found.items():
        print(f"{name:46} {value:7.2f} s")
    print()
    for name, value in figures.items():
        unit, budget = BUDGETS[name]
        good = value >= budget if "least" in unit else value <= budget
        print(f"{name:46} {value:7.2f} {unit[0]}   budget {budget:g} {unit:12} {'holds' if good else 'MISSED'}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"seconds": found, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
