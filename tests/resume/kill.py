"""Kill a training run at random moments, start it again, and compare what it leaves with an uninterrupted run.

    python tests/resume/kill.py --kills 20        (about 5 minutes on two cores)

Each time a new run is started, killed with SIGKILL at a moment between its first checkpoint and its end (a random time
after a random checkpoint, so that a busy machine shifts nothing), and started again at once, while the loader's workers
of the killed one may still be alive. The hashes of weights, configuration and curves must be those of the uninterrupted
run.
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

from components.training.config import FitConfig

ROOT = Path(__file__).parents[2]
FILES = ("model.safetensors", "config.json", "curves.jsonl", "curves.png")
CONFIG = FitConfig(
    steps=80,
    batch_size=8,
    accumulation=2,
    learning_rate=3e-3,
    warmup=10,
    validate_every=20,
    save_every=5,
    seed=7,
    precision="fp16",
    optimiser="muon",
    layer_decay=0.8,
    ema=0.9,
    keep="best",
    log_every=7,  # in step with neither, so that half a window is in the checkpoint
    workers=2,
)


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


def wait_for_checkpoint(process: subprocess.Popen, folder: Path, step: int) -> None:
    """Until there is a checkpoint of this step or a later one."""
    while not any(int(path.name[5:]) >= step for path in (folder / "store").glob("step-*")):
        if process.poll() is not None:
            raise RuntimeError(f"the run ended before its checkpoint of step {step}:\n{(folder / 'log').read_text()}")
        time.sleep(0.002)


def hashes(folder: Path) -> list[str]:
    return [hashlib.sha256((folder / "out" / name).read_bytes()).hexdigest() for name in FILES]


def uninterrupted(folder: Path) -> tuple[list[str], float]:
    """Hashes of a run that nothing disturbs, and its seconds from one checkpoint to the next."""
    process = start(folder)
    wait_for_checkpoint(process, folder, CONFIG.save_every)
    first = time.monotonic()
    wait_for_checkpoint(process, folder, CONFIG.steps)
    seconds = time.monotonic() - first
    finish(process, folder)
    return hashes(folder), seconds * CONFIG.save_every / (CONFIG.steps - CONFIG.save_every)


def interrupted(folder: Path, checkpoint: int, delay: float, expected: list[str]) -> Outcome | None:
    """A run killed `delay` seconds after the checkpoint of this step and started again. None where it ended before."""
    process = start(folder)
    wait_for_checkpoint(process, folder, checkpoint)
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
    print(f"uninterrupted: {expected[0][:12]}, {seconds:.2f} s from one checkpoint to the next", flush=True)
    outcomes = []
    while len(outcomes) < kills:
        (folder / "killed").mkdir()
        checkpoint, delay = draw.randrange(CONFIG.save_every, CONFIG.steps, CONFIG.save_every), draw.uniform(0, seconds)
        if outcome := interrupted(folder / "killed", checkpoint, delay, expected):
            outcomes.append(outcome)
            moment = f"{delay:.2f} s after the checkpoint of step {checkpoint}"
            moment += ", while saving" if outcome.saving else ""
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
