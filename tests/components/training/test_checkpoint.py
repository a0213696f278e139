"""Runs that are cut off, and checkpoints that are damaged, foreign or do not fit on the disk."""

import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch

from components.training import checkpoint
from components.training.fit import History, fit
from components.training.weights import weights
from tests.components.training.toy import Batch, Regression, StackedRegression, batches, config

SETTINGS = {"precision": "bf16", "keep": "best", "accumulation": 2, "log_every": 4}
EVERYTHING = {
    "precision": "fp16",
    "optimiser": "muon",
    "layer_decay": 0.7,
    "ema": 0.8,
    "schedule": "wsd",
    "activations": "recompute",
    "patience": 3,
}


class Cut(Exception):
    """Stands for a kill."""


def run(folder: Path | None, cut_at: int | None = None, **changes) -> tuple[Regression, History, str]:
    """A run with dropout; cut off when it asks for the first batch of step `cut_at`, counted from 0."""
    settings = config(**SETTINGS | changes)
    task = (StackedRegression if changes.get("optimiser") == "muon" else Regression)(dropout=0.3)

    def stream(start: int) -> Iterator[Batch]:
        for number, batch in enumerate(batches(4)(start), start):
            if number == (cut_at or -1) * settings.accumulation:
                raise Cut
            yield batch

    with redirect_stdout(io.StringIO()) as said:
        return task, fit(task, stream, settings, checkpoints=folder), said.getvalue()


def same(first: tuple[Regression, History, str], second: tuple[Regression, History, str]) -> bool:
    """Weights, curves (with their order) and kept figures."""
    tensors = weights(second[0].model)
    bits = all(torch.equal(value, tensors[name]) for name, value in weights(first[0].model).items())
    return bits and json.dumps(first[1].rows) == json.dumps(second[1].rows) and first[1].figures == second[1].figures


@pytest.mark.parametrize("step", [5, 6, 13, 19])
def test_a_run_that_was_cut_off_ends_with_the_same_bits(tmp_path: Path, step: int) -> None:
    whole = run(None)
    with pytest.raises(Cut):
        run(tmp_path, cut_at=step)
    resumed = run(tmp_path)
    assert same(whole, resumed)
    assert f"continuing after step {step // 5 * 5} of 20" in resumed[2]
    assert same(whole, run(tmp_path))  # a finished run is not trained again


@pytest.mark.parametrize("step", [2, 5, 13, 19])
def test_so_does_one_with_loss_scale_muon_average_and_patience(tmp_path: Path, step: int) -> None:
    """The loss scale falls in its first steps, and saving each second step catches it on the way."""
    whole = run(None, **EVERYTHING, save_every=2)
    assert len({row["loss_scale"] for row in whole[1].rows if "loss_scale" in row}) > 1
    with pytest.raises(Cut):
        run(tmp_path, cut_at=step, **EVERYTHING, save_every=2)
    for _ in range(2):
        assert same(whole, run(tmp_path, **EVERYTHING, save_every=2))


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "lock", "step-000000015", "step-000000020", "tensorboard"
    ]  # fmt: skip
    sums = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "step-000000020", capture_output=True)
    assert sums.returncode == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "facts", "missing"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    whole = run(None)
    with pytest.raises(Cut):
        run(tmp_path, cut_at=18)
    newest = tmp_path / "step-000000015"
    path = newest / ("state.json" if damage == "facts" else "tensors.safetensors")
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
        path.write_bytes({"flip": flipped, "facts": flipped, "cut": content[:-5], "empty": b""}[damage])
    resumed = run(tmp_path)
    assert f"checkpoint {newest} is damaged" in resumed[2]
    assert "continuing after step 10 of 20" in resumed[2]
    assert same(whole, resumed)


def test_where_all_are_damaged_the_run_starts_again(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        run(tmp_path, cut_at=18)
    for path in tmp_path.glob("step-*/SHA256SUMS"):
        path.write_text("")
    again = run(tmp_path)
    assert again[2].count("is damaged") == 2
    assert same(run(None), again)


def test_what_a_kill_left_half_written_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        run(tmp_path, cut_at=12)
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "tensors.safetensors").write_bytes(b"half")
    assert same(run(None), run(tmp_path))
    assert not (tmp_path / "partial").exists()


def test_checkpoints_of_another_run_are_not_used(tmp_path: Path) -> None:
    with pytest.raises(Cut):
        run(tmp_path, cut_at=12)
    other = run(tmp_path, learning_rate=0.02)
    assert "of another run (learning_rate is 0.01 there and 0.02 here): starting afresh" in other[2]
    assert same(run(None, learning_rate=0.02), other)


def test_checkpoints_of_another_model_are_not_used(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(Cut):
        run(tmp_path, cut_at=12)
    task = Regression()
    task.model[3] = torch.nn.Linear(8, 1, bias=False)
    fit(task, batches(4), config(**SETTINGS), checkpoints=tmp_path)
    assert "of another run (it has 3.bias, which the model lacks)" in capsys.readouterr().out


def test_a_full_disk_leaves_the_one_before_whole(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the second save fails, and with room the run goes on."""
    with pytest.raises(Cut):
        run(tmp_path, cut_at=7)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            run(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.filename.endswith("tensors.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "step-000000005", "tensorboard"]
    assert same(run(None), run(tmp_path))


def test_nothing_in_a_checkpoint_can_run_code(tmp_path: Path) -> None:
    run(tmp_path)
    files = {path.name for path in tmp_path.glob("step-*/*")}
    assert files == {"tensors.safetensors", "state.json", "SHA256SUMS"}


def test_a_second_process_waits_and_finds_the_work_done(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from components.training.checkpoint import held\n"
        "with held(Path(sys.argv[1]), print): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as first:
        assert first.stdout.readline() == "held\n"
        child = os.fork()  # as the loader's workers are: it must not hold the lock on
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        said: list[str] = []

        def say(message: str) -> None:
            said.append(message)
            first.kill()

        with checkpoint.held(tmp_path, say):
            assert "another process trains" in said[0]
