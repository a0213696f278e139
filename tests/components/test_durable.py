"""Whole files: after an error, after a kill in the middle, and with two processes at one name."""

import os
import signal
from pathlib import Path

import pytest

from components.durable import whole, write_whole


def cut_off(path: Path) -> None:
    with whole(path) as draft:
        draft.write_bytes(b"ne")
        raise ZeroDivisionError


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    write_whole(tmp_path / "model", b"old")
    with pytest.raises(ZeroDivisionError):
        cut_off(tmp_path / "model")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"model": b"old"}


def test_a_kill_leaves_what_was_there(tmp_path: Path) -> None:
    write_whole(tmp_path / "model", b"old")
    child = os.fork()
    if child == 0:
        with whole(tmp_path / "model") as draft:
            draft.write_bytes(b"ne")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / "model").read_bytes() == b"old"


def test_two_processes_do_not_write_into_one_draft(tmp_path: Path) -> None:
    """The one that ends last has its file there, whole, whatever the other wrote meanwhile."""
    with whole(tmp_path / "model") as draft:
        draft.write_bytes(b"first, ")
        child = os.fork()
        if child == 0:
            write_whole(tmp_path / "model", b"second")
            os._exit(0)
        os.waitpid(child, 0)
        assert (tmp_path / "model").read_bytes() == b"second"
        with draft.open("ab") as file:
            file.write(b"whole")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"model": b"first, whole"}
