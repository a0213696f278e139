"""Kill a training run at random moments, start it again, and compare what it leaves with an uninterrupted run.

    python tests/resume/kill.py --kills 20        (about 5 minutes on two cores)

Each time a new run is started, killed with SIGKILL at a moment drawn between its first checkpoint and the length of
the uninterrupted run, and started again at once, while the loader's workers of the killed one may still be alive. The
hashes of weights, configuration and curves must be those of the uninterrupted run.
"""

import argparse
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = ("model.safetensors", "config.json", "curves.jsonl", "curves.png")


@dataclass(frozen=True)
class Outcome:
    step: int  # that the second process continued after
    saving: bool  # the kill fell into the writing of a checkpoint
    equal: bool


def start(folder: Path) -> subprocess.Popen:
    command = [sys.executable, str(Path(__file__).with_name("victim.py")), str(folder / "store"), str(folder / "out")]
    with open(folder / "log", "a") as log:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def finish(process: subprocess.Popen, folder: Path) -> None:
    if process.wait():
        raise RuntimeError(f"the run failed:\n{(folder / 'log').read_text()}")


def wait_for_checkpoint(process: subprocess.Popen, folder: Path) -> None:
    while not list((folder / "store").glob("step-*")):
        if process.poll() is not None:
            raise RuntimeError(f"the run ended before its first checkpoint:\n{(folder / 'log').read_text()}")
        time.sleep(0.002)


def hashes(folder: Path) -> list[str]:
    return [hashlib.sha256((folder / "out" / name).read_bytes()).hexdigest() for name in FILES]


def uninterrupted(folder: Path) -> tuple[list[str], float]:
    """Hashes of a run that nothing disturbs, and its seconds from the first checkpoint to the end."""
    process = start(folder)
    wait_for_checkpoint(process, folder)
    first = time.monotonic()
    finish(process, folder)
    return hashes(folder), time.monotonic() - first


def interrupted(folder: Path, delay: float, expected: list[str]) -> Outcome | None:
    """A run killed `delay` seconds after its first checkpoint and started again. None where it ended before."""
    process = start(folder)
    wait_for_checkpoint(process, folder)
    time.sleep(delay)
    process.kill()
    if process.wait() != -signal.SIGKILL:
        return None
    saving = (folder / "store" / "partial").exists()
    second = start(folder)
    try:
        finish(second, folder)
    finally:
        end_group(process)  # workers of the killed run that have not yet noticed
    step = re.search(r"continuing after step ([\d,]+)", (folder / "log").read_text())
    return Outcome(int(step[1].replace(",", "")) if step else 0, saving, hashes(folder) == expected)


def end_group(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def trials(kills: int, seed: int, folder: Path) -> list[Outcome]:
    """`kills` outcomes, a line printed for each."""
    draw = random.Random(seed)
    (folder / "whole").mkdir()
    expected, seconds = uninterrupted(folder / "whole")
    print(f"uninterrupted: {expected[0][:12]}, {seconds:.1f} s after the first checkpoint", flush=True)
    outcomes = []
    while len(outcomes) < kills:
        (folder / "killed").mkdir()
        delay = draw.uniform(0, seconds)
        if outcome := interrupted(folder / "killed", delay, expected):
            outcomes.append(outcome)
            moment = f"{delay:.2f} s after the first checkpoint" + (", while saving" if outcome.saving else "")
            verdict = "equal" if outcome.equal else "DIFFERENT"
            print(f"kill {len(outcomes)}: {moment}; continued after step {outcome.step}: {verdict}", flush=True)
        shutil.rmtree(folder / "killed")
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = trials(arguments.kills, arguments.seed, Path(folder))
    good = sum(outcome.equal and outcome.step > 0 for outcome in outcomes)
    print(f"{good} of {len(outcomes)} killed runs continued and ended with the bits of the uninterrupted one")
    sys.exit(good < len(outcomes))


if __name__ == "__main__":
    main()
