"""What every stage does around its work: parameters, threads, device, seeds, checkpoint folder, metrics and errors.

A stage ends with exit status 0; with 1 and one line that says what it could not do; with 2 and one line about its
parameters; or with a traceback where nobody expected the error. The number of threads and the device come from the
parameters alone, since bits depend on them.
"""

import dataclasses
import errno
import fcntl
import hashlib
import json
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from components.durable import write_whole
from flows.params import ParamsError, read

P = TypeVar("P")

KEPT = 3  # checkpoint folders kept for one stage and key, the newest
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
WEIGHTS = "model.safetensors"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StageError(Exception):
    """What a stage could not do, why, and the remedy: one line, printed without a traceback."""


@dataclass
class Stage:
    """Where a running stage reads and writes. All paths are relative to the repository root, the working directory."""

    name: str
    key: str  # empty for a stage without foreach
    params: Any
    root: Path = field(default_factory=Path)

    def __str__(self) -> str:
        return f"{self.name}@{self.key}" if self.key else self.name

    @property
    def model(self) -> Path:
        """models/NAME/KEY, not made yet: it appears whole, by one rename."""
        return self.root / "models" / self.name / self.key

    @property
    def reports(self) -> Path:
        """reports/NAME/KEY, made."""
        folder = self.root / "reports" / self.name / self.key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write_metrics(self, metrics: dict[str, float]) -> None:
        """Write reports/NAME/KEY/metrics.json, the main metric first.

        Raises:
            StageError: a metric is not a finite number.
        """
        for name, value in metrics.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise StageError(f"the metric {name} is {value}: not a finite number")
        write_atomically(self.reports / "metrics.json", json.dumps(metrics, indent=2) + "\n")

    def checkpoints(self, inputs: list[Path]) -> Path:
        """The folder for this run's checkpoints, the same one while params, inputs, code and packages stay the same.

        It lies in the store, `.store`, which may be a link that clones share. Call it after the heavy imports: the
        code is what is loaded by then. Another key starts in a new folder and says why; the newest old ones stay.
        """
        parts = {
            "params": _digest(json.dumps(dataclasses.asdict(self.params), sort_keys=True).encode()),
            "inputs": _digest(*(_digest_path(path) for path in inputs)),
            "code": _digest(
                *(part for _, path in _loaded_modules(self.root) for part in (path.name.encode(), path.read_bytes()))
            ),
            "packages": _digest(json.dumps(_loaded_versions(), sort_keys=True).encode()),
        }
        # resolved: a link to a missing folder is made, too
        store = (self.root / ".store").resolve() / "checkpoints" / str(self)
        folder = store / _digest(*(value.encode() for value in parts.values()))
        others = sorted(store.glob("*/key.json"), key=lambda path: path.parent.stat().st_mtime, reverse=True)
        if not (folder / "key.json").exists():
            if others:
                stored = [json.loads(path.read_text()) for path in others]
                changed = min(([name for name in parts if other[name] != parts[name]] for other in stored), key=len)
                print(f"{self}: starts afresh, not from an earlier checkpoint: {', '.join(changed)} changed")
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / "key.json", json.dumps(parts, indent=2) + "\n")
        for old in [path.parent for path in others if path.parent != folder][KEPT - 1 :]:
            _prune(old)
        return folder


def start(
    name: str,
    params_class: type[P],
    cost: Callable[[P], str],
    run: Callable[[P, Stage], None],
    section: str | None = None,
) -> None:
    """The main function of the stage module `name` (or its `__file__`): `python -m flows.stages.NAME [KEY]`. Exits.

    `section`: where its parameters stand, if not under its name.
    """
    stage = Path(name).stem
    arguments = sys.argv[1:]
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        _exit(2, f"usage: python -m flows.stages.{stage} [KEY]")
    sys.exit(execute(stage, arguments[0] if arguments else "", params_class, cost, run, section or stage))


def execute(
    name: str, key: str, params_class: type[P], cost: Callable[[P], str], run: Callable[[P, Stage], None], section: str
) -> int:
    """Run a stage in this process, in the repository root; the exit status is returned, with its line printed."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a log shows each line when it is written
    started = time.monotonic()
    label = f"{name}@{key}" if key else name
    try:
        params = read(f"{section}.{key}" if key else section, params_class)
        prepare(params)
        print(f"{label}: {cost(params)}")
        stage = Stage(name, key, params)
        run(params, stage)
    except ParamsError as error:
        return _line(
            2, f"{label}: {error}" + ("" if key else f" (for one of several: python -m flows.stages.{name} KEY)")
        )
    except (StageError, FloatingPointError) as error:  # the latter is a training that diverged
        return _line(1, f"{label}: {error}")
    except KeyboardInterrupt:
        return _line(130, f"{label}: interrupted")
    except OSError as error:
        if error.errno not in FULL:
            raise
        return _line(1, f"{label}: {error.strerror}: {error.filename or 'writing a file'}: make room and start again")
    seconds = time.monotonic() - started
    if hasattr(params, "fit") and (stage.model / WEIGHTS).is_file():
        _remember(model_hash(stage.model), seconds)
    print(f"{label}: done in {seconds:.1f} s")
    return 0


def model_hash(folder: Path) -> str:
    """SHA-256 of the weights in a model's folder."""
    with open(folder / WEIGHTS, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def training_seconds(model: str) -> float | None:
    """How long the training took that ended with these weights (model_hash); None where it ran on another machine.

    A measured time must not stand in an output, which is to have the same bytes each time: it lies in the store."""
    path = _seconds_path(model)
    return json.loads(path.read_text())["seconds"] if path.is_file() else None


def _remember(model: str, seconds: float) -> None:
    """Note the longest: a run that found its last checkpoint finished has not trained."""
    path = _seconds_path(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"seconds": max(round(seconds, 1), training_seconds(model) or 0.0)}) + "\n")


def _seconds_path(model: str) -> Path:
    return Path(".store").resolve() / "seconds" / f"{model}.json"


def prepare(params: Any) -> None:
    """Set threads, device and seeds as the parameters say in `threads` (else 1), `device` (cpu) and `seed` (not set).

    Torch is loaded only for a stage that has a `device`.

    Raises:
        ParamsError: the device is cuda and there is none.
    """
    threads = getattr(params, "threads", 1)
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)), MKL_DYNAMIC="FALSE", OMP_DYNAMIC="FALSE")
    seed = getattr(params, "seed", None)
    if hasattr(params, "device"):
        _prepare_torch(params.device, threads, seed)
    if "numpy" in sys.modules:  # its BLAS is loaded and has read the environment already
        from threadpoolctl import threadpool_limits

        threadpool_limits(threads)
    if seed is not None:
        import numpy

        random.seed(seed)
        numpy.random.seed(seed % 2**32)


def _prepare_torch(device: str, threads: int, seed: int | None) -> None:
    if device.startswith("cuda"):
        # read when CUDA starts; deterministic matrix products need it
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        # is_available then asks the driver and does not start CUDA here: a process that has started it cannot fork
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    import torch

    if device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise ParamsError(
                f"device = {device}: no GPU is visible to torch here: set device to cpu, or run on a machine with one"
            )
        torch.use_deterministic_algorithms(True, warn_only=True)  # an operation that has none names itself
    torch.set_num_threads(threads)
    if seed is not None:
        torch.manual_seed(seed)


def write_atomically(path: Path, text: str) -> None:
    """The whole text or nothing, whatever is killed: a temporary name, synced, renamed."""
    write_whole(path, text.encode("utf-8"))


def _prune(folder: Path) -> None:
    """Remove a folder of checkpoints, but not under a process that trains there (components/training/checkpoint.py)."""
    try:
        with open(folder / "lock", "w") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    except OSError:  # it is held, or another clone prunes it at the same time
        pass


def _line(status: int, message: str) -> int:
    print(message, file=sys.stderr, flush=True)
    return status


def _exit(status: int, message: str) -> None:
    sys.exit(_line(status, message))


def _digest(*parts: bytes) -> str:
    """Of the parts with their borders."""
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()[:16]


def _digest_path(path: Path) -> bytes:
    """Of a file's content, or of the names and contents of all files in a folder."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return b"".join(str(file.relative_to(path)).encode() + b"\0" + _digest_path(file) for file in files)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _loaded_modules(root: Path) -> list[tuple[str, Path]]:
    """Names and files of the loaded modules under components/ and flows/."""
    rooms = [root.resolve() / "components", root.resolve() / "flows"]
    files = {
        name: Path(file) for name, module in list(sys.modules.items()) if (file := getattr(module, "__file__", None))
    }
    return sorted((name, path) for name, path in files.items() if any(path.is_relative_to(room) for room in rooms))


def _loaded_versions() -> dict[str, str]:
    """Versions of Python and of the loaded packages that state one."""
    stated = {name: vars(module).get("__version__") for name, module in list(sys.modules.items()) if "." not in name}
    return {"python": sys.version, **{name: version for name, version in stated.items() if isinstance(version, str)}}
