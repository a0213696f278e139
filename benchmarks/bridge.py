"""What the bridge costs, beside plain `dvc repro` on the same repositories.

    python -m benchmarks.bridge [--json FILE] [--repeat N]      about 3 minutes on two idle cores

One repository has twenty stages, each with eight folders of code among its inputs, like this project's own stages; one
has twenty trivial stages; one has four stages that sleep for three seconds. A Prefect server is up before anything is
timed. `flow` is the flow run in a process that has run one before, as the budgets mean it; `command` adds the start of
`python -m flows.pipeline`, most of which is the import of Prefect. CPU seconds are those of the process and
the stages: they hold on a busy machine too, where wall time does not.
"""

import argparse
import json
import os
import resource
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

from benchmarks.environment import environment

STAGES = 20
BUDGETS = {  # on two cores: (unit, figure, whether it is the least)
    "up to date: flow over reading the graph": ("s", 1.5, False),
    "executed: flow against one dvc repro": ("x", 2.0, False),
    "executed: 20 x dvc repro -s against flow": ("x", 5.0, True),
    "four stages of 3 s on four slots: flow": ("s", 5.0, False),
}
Cost = tuple[float, float]  # seconds: by the clock, of the CPUs


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


def cost(work: Callable[[], Any]) -> Cost:
    begin = time.perf_counter(), cpu()
    work()
    return time.perf_counter() - begin[0], cpu() - begin[1]


def cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def command(root: Path, *words: str) -> Cost:
    return cost(lambda: subprocess.run(words, cwd=root, check=True, capture_output=True))


def flow_command(root: Path) -> Cost:
    words = [sys.executable, "-m", "flows.pipeline", "--repo", str(root)]
    return cost(lambda: subprocess.run(words, check=True, capture_output=True))


def flow(root: Path, slots: int) -> Cost:
    from flows.pipeline import pipeline

    return cost(lambda: pipeline(str(root), slots=slots, devices=[]))


def reading(root: Path) -> Cost:
    from flows.bridge import Bridge

    with chdir(root):
        return cost(lambda: Bridge(Path(".")).graph())


def measure(folder: Path, repeat: int) -> dict[str, Cost]:
    """Each figure's median over `repeat` rounds."""
    folders, plain, four = (make(folder / make.__name__) for make in (with_folders, trivial, sleeping))
    command(folders, "dvc", "repro", "-q")
    flow(folders, 2)  # imports, connections
    rounds: list[dict[str, Cost]] = []
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
    once = [command(plain, "dvc", "repro", "-s", f"s{i}") for i in range(STAGES)]
    median = {name: _each(statistics.median, [found[name] for found in rounds]) for name in rounds[0]}
    return median | {"executed: 20 x dvc repro -s": _each(sum, once)}


def _each(combine: Callable[[list[float]], float], costs: list[Cost]) -> Cost:
    return combine([wall for wall, _ in costs]), combine([used for _, used in costs])


def compare(found: dict[str, Cost]) -> dict[str, Cost]:
    """The figures that have a budget; by the clock, and by the CPUs where that says the same."""

    def each(figure: Callable[[dict[str, float]], float]) -> Cost:
        return figure({name: wall for name, (wall, _) in found.items()}), figure(
            {n: used for n, (_, used) in found.items()}
        )

    return {
        "up to date: flow over reading the graph": each(
            lambda f: f["up to date: flow"] - f["up to date: reading the graph"]
        ),
        "executed: flow against one dvc repro": each(lambda f: f["executed: flow"] / f["executed: dvc repro"]),
        "executed: 20 x dvc repro -s against flow": each(
            lambda f: f["executed: 20 x dvc repro -s"] / f["executed: flow"]
        ),
        "four stages of 3 s on four slots: flow": found["four stages of 3 s on four slots: flow"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds; the median counts (default: 3)")
    arguments = parser.parse_args()
    from flows import processes, server
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
            processes.stop("server")
    figures = compare(found)
    print(f"{'':46}  clock     CPU")
    for name, (wall, used) in found.items():
        print(f"{name:46} {wall:6.2f}  {used:6.2f} s")
    print()
    for name, (wall, used) in figures.items():
        unit, budget, least = BUDGETS[name]
        holds = "holds" if (wall >= budget if least else wall <= budget) else "MISSED"
        bound = "at least" if least else "at most"
        print(f"{name:46} {wall:6.2f}  {used:6.2f} {unit}   {bound} {budget:g} {unit}: {holds}")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"environment": environment("dvc", "prefect"), "cost": found, "figures": figures}, indent=2)
            + "\n"
        )


if __name__ == "__main__":
    main()
