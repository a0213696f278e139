"""The start of a stage: status and line for every ending, threads and seeds, metrics, and the checkpoint folder."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
from annotated_types import Ge

from flows.stages import runtime
from flows.stages.runtime import Stage, StageError, execute

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Params:
    steps: Annotated[int, Ge(1)] = 1
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for variable in (*runtime.THREAD_VARIABLES, "CUBLAS_WORKSPACE_CONFIG", "PYTORCH_NVML_BASED_CUDA_CHECK"):
        monkeypatch.setenv(variable, "1")  # put back afterwards
    Path("params.yaml").write_text("job: {a: {steps: 3}, bad: {steps: 0}, gpu: {device: cuda}, other: {steps: 4}}")
    return tmp_path


def start(run: Callable[[Params, Stage], None], key: str = "a") -> int:
    return execute("job", key, Params, lambda params: f"{params.steps} steps", run, "job")


def raising(error: Exception) -> Callable[[Params, Stage], None]:
    def run(params: Params, stage: Stage) -> None:
        raise error

    return run


def test_cost_comes_first_and_seconds_last(capsys: pytest.CaptureFixture[str]) -> None:
    assert start(lambda params, stage: print(f"runs {params.steps} of {stage}")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["job@a: 3 steps", "runs 3 of job@a"]
    assert lines[2].startswith("job@a: done in ")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (StageError("no such shard: ingest first"), 1, "job@a: no such shard: ingest first\n"),
        (FloatingPointError("loss is nan at step 3"), 1, "job@a: loss is nan at step 3\n"),
        (KeyboardInterrupt(), 130, "job@a: interrupted\n"),
        (
            OSError(28, "No space left on device", "models/x"),
            1,
            "job@a: No space left on device: models/x: make room and start again\n",
        ),
    ],
)
def test_an_expected_error_is_one_line(
    error: Exception, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(raising(error)) == status
    assert capsys.readouterr().err == line


def test_an_unexpected_error_keeps_its_traceback() -> None:
    with pytest.raises(FileNotFoundError):
        start(raising(FileNotFoundError(2, "No such file or directory", "x")))


def test_bad_parameters_and_a_missing_gpu_end_it_before_it_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "0")  # CUDA would start here, and forks could not use it
    monkeypatch.setattr(torch.cuda, "is_available", lambda: os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == "0")
    never = raising(AssertionError("ran"))
    assert [start(never, key) for key in ("bad", "b", "gpu")] == [2, 2, 2]
    bad, missing, gpu = capsys.readouterr().err.splitlines()
    assert bad == "job@bad: params.yaml: job.bad.steps = 0: must be a whole number, at least 1"
    assert missing == "job@b: params.yaml: job.b: job has no key b: did you mean bad? known are a, bad, gpu, other"
    assert gpu.startswith("job@gpu: device = cuda: no GPU is visible")


FORKS = """
import os
from flows.stages import runtime
class Params:
    device, threads, seed = "cuda", 1, 1
runtime.prepare(Params())
child = os.fork()
if child == 0:
    import torch
    os._exit(int(torch.ones(3, device="cuda").sum()) - 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no GPU")
def test_a_prepared_process_can_still_fork_one_that_uses_the_gpu() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTORCH_NVML_BASED_CUDA_CHECK")
    ended = subprocess.run([sys.executable, "-c", FORKS], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout == "0\n", ended.stderr


def test_the_seed_sets_every_generator() -> None:
    draws: list[Any] = []
    for _ in range(2):
        start(lambda *_: draws.append((random.random(), torch.rand(1).item(), runtime_numpy())))
    assert draws[0] == draws[1]


def runtime_numpy() -> float:
    import numpy

    return numpy.random.rand()


STAGE = """
import sys
from dataclasses import dataclass
from flows.stages.runtime import start
{imports}
@dataclass(frozen=True)
class Params:
    threads: int
    {device}
def run(params, stage):
    {body}
start("job", Params, lambda params: "nothing", run)
"""


@pytest.mark.parametrize(
    ("threads", "imports", "device", "body", "expected"),
    [
        (3, "", "device: str = 'cpu'", "import torch; print(torch.get_num_threads())", "3"),
        (3, "", "", "import torch; print(torch.get_num_threads())", "3"),
        (1, "import numpy", "", "import threadpoolctl as t; print(t.threadpool_info()[0]['num_threads'])", "1"),
        (1, "", "", "print('torch' in sys.modules, 'numpy' in sys.modules)", "False False"),
    ],
)
def test_threads_are_those_of_the_parameters(
    threads: int, imports: str, device: str, body: str, expected: str, here: Path
) -> None:
    (here / "params.yaml").write_text(f"job: {{x: {{threads: {threads}}}}}")
    (here / "job.py").write_text(STAGE.format(imports=imports, device=device, body=body))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "7"}
    ended = subprocess.run(
        [sys.executable, "job.py", "x"], env=environment, capture_output=True, text=True, check=False
    )
    assert (ended.stdout.splitlines()[1:2], ended.stderr) == ([expected], "")


def test_metrics_keep_their_order_and_refuse_what_is_no_number() -> None:
    stage = Stage("job", "a", Params())
    stage.write_metrics({"word_error": 0.05, "count": 3, "accuracy": 1.0})
    assert list(json.loads(Path("reports/job/a/metrics.json").read_text())) == ["word_error", "count", "accuracy"]
    for value in (float("nan"), float("inf"), True, "1"):
        with pytest.raises(StageError, match="the metric loss is"):
            stage.write_metrics({"loss": value})  # pyright: ignore
    assert [path.name for path in Path("reports/job/a").iterdir()] == ["metrics.json"]


@pytest.fixture
def code(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A loaded module of the repository."""
    path = here / "components" / "part.py"
    path.parent.mkdir()
    path.write_text("value = 1")
    monkeypatch.setitem(sys.modules, "components.part", type(sys)("components.part"))
    sys.modules["components.part"].__file__ = str(path)
    return path


def test_checkpoints_follow_params_inputs_and_code(code: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = here / "shards"
    (shards / "deep").mkdir(parents=True)
    (shards / "deep" / "0.tar").write_bytes(b"one")
    stage = Stage("job", "a", Params(steps=3))
    first = stage.checkpoints([shards])
    assert stage.checkpoints([shards]) == first
    assert first.parent == here / ".store" / "checkpoints" / "job@a"
    assert capsys.readouterr().out == ""  # nothing is lost, nothing is said

    def changed(name: str, stage: Stage) -> None:
        assert stage.checkpoints([shards]) != first
        assert capsys.readouterr().out == f"job@a: starts afresh, not from an earlier checkpoint: {name} changed\n"
        shutil.rmtree(stage.checkpoints([shards]))

    changed("params", Stage("job", "a", Params(steps=4)))
    (shards / "deep" / "0.tar").rename(shards / "deep" / "1.tar")
    changed("inputs", stage)
    (shards / "deep" / "1.tar").rename(shards / "deep" / "0.tar")
    code.write_text("value = 2")
    changed("code", stage)
    code.write_text("value = 1")
    assert stage.checkpoints([shards]) == first


def test_old_checkpoints_go_and_the_newest_stay() -> None:
    folders = []
    for steps in range(1, 7):
        folders.append(Stage("job", "a", Params(steps=steps)).checkpoints([]))
        os.utime(folders[-1], (steps, steps))
    assert sorted(path.name for path in folders[0].parent.iterdir()) == sorted(path.name for path in folders[-3:])
    other = Stage("job", "b", Params()).checkpoints([])
    assert other.parent != folders[0].parent
    assert folders[-1].exists()


def test_checkpoints_stay_under_a_process_that_trains_there() -> None:
    first = Stage("job", "a", Params(steps=1)).checkpoints([])
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True)"
    command = [sys.executable, "-c", f"{hold}; input()", str(first / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline() == b"held\n"
        os.utime(first, (1, 1))
        for steps in range(2, 6):
            Stage("job", "a", Params(steps=steps)).checkpoints([])
        assert first.exists()
        other.communicate(b"\n")
    os.utime(first, (1, 1))
    Stage("job", "a", Params(steps=6)).checkpoints([])
    assert not first.exists()


def test_clones_share_the_store_by_a_link(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = here / "clone"
    clone.mkdir()
    (clone / ".store").symlink_to(here / ".store")  # not there yet
    monkeypatch.chdir(clone)
    assert Stage("job", "a", Params()).checkpoints([]).is_relative_to(here / ".store")
