"""No descendant of a command outlives it: real processes, sessions and signals."""

import os
import signal
import sys
from pathlib import Path

import pytest

from flows import command
from flows.command import Command, Lines
from tests.flows.tools import alive, start, until

# a child, a grandchild in a session of its own that ignores SIGTERM, and a daemon: its parent is gone, its output
# closed
FAMILY = """
echo $$ > pids
sleep 300 &
echo $! >> pids
setsid sh -c 'trap "" TERM; echo $$ >> pids; sleep 300; sleep 300' &
(setsid sh -c 'echo $$ >> pids; exec sleep 300' > /dev/null 2>&1 < /dev/null &)
"""
MEMBERS = 4


def pids(folder: Path) -> list[int]:
    """The members of the family, once all are there."""
    file = folder / "pids"
    until(lambda: file.exists() and len(file.read_text().split()) == MEMBERS)
    return [int(pid) for pid in file.read_text().split()]


def run(script: str, folder: Path) -> tuple[int, list[str]]:
    lines: list[str] = []
    return Command(["sh", "-c", script], dict(os.environ), str(folder)).follow(Lines(lines.append)), lines


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$", 137), ("true", 0), ("kill 0", 143)])
def test_it_exits_like_the_command(script: str, code: int, tmp_path: Path) -> None:
    assert run(script, tmp_path)[0] == code


def test_what_a_command_leaves_running_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quicker(monkeypatch, tmp_path)
    code, lines = run(f"{FAMILY}\nwhile [ $(wc -l < pids) -lt {MEMBERS} ]; do sleep 0.05; done; exit 3", tmp_path)
    assert code == 3
    assert "left running" in lines[-1]
    assert not alive(pids(tmp_path))


def test_a_closed_lifeline_ends_every_descendant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quicker(monkeypatch, tmp_path)
    running = Command(["sh", "-c", FAMILY + "sleep 300"], dict(os.environ), str(tmp_path))
    family = pids(tmp_path)
    running.stop()
    assert running.follow(Lines(lambda line: None)) == 143
    assert not alive(family)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_supervisor_ends_every_descendant(
    how: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quicker(monkeypatch, tmp_path)
    running = Command(["sh", "-c", FAMILY + "sleep 300"], dict(os.environ), str(tmp_path))
    family = pids(tmp_path)
    os.kill(running._process.pid, how)
    running.follow(Lines(lambda line: None))
    assert not alive(family)


def test_kill_9_of_the_starter_ends_every_descendant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supervise = quicker(monkeypatch, tmp_path)
    starter = start(
        "-c",
        "import os, sys; from pathlib import Path; from flows import command\n"
        "command.SUPERVISE = Path(sys.argv[1])\n"
        "command.Command(['sh', '-c', sys.argv[2]], dict(os.environ), sys.argv[3]).follow(command.Lines(print))",
        supervise,
        FAMILY + "sleep 300",
        tmp_path,
    )
    family = pids(tmp_path)
    starter.kill()
    starter.communicate()
    until(lambda: not alive(family))


def quicker(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """The supervisor with a shorter grace for those who ignore SIGTERM."""
    text = command.SUPERVISE.read_text()
    assert "GRACE = 5.0" in text
    copy = folder / "supervise.py"
    copy.write_text(text.replace("GRACE = 5.0", "GRACE = 0.5"))
    monkeypatch.setattr(command, "SUPERVISE", copy)
    return copy


def test_a_line_that_rewrites_itself_is_logged_in_its_last_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "PROGRESS", 1000.0)
    got: list[str] = []
    lines = Lines(got.append)
    for piece in (
        b"one\r\ntw",
        b"o\n 1%\r 2%",
        b"\r\x1b[32m 3%\x1b[0m\r",
        b" 4%\r\n",
        b"\n\xe3\x81\x82\xff\n",
        b"end\r",
    ):
        lines.feed(piece)
    lines.close()
    assert got == ["one", "two", " 4%", "あ\\xff", "end"]
    assert lines.last == "end"


def test_a_line_that_rewrites_itself_is_shown_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "PROGRESS", 0.0)
    got: list[str] = []
    lines = Lines(got.append)
    for state in (b" 1%\r", b" 2%\r", b" 3%"):
        lines.feed(state)
    lines.close()
    assert got == [" 1%", " 2%", " 3%"]


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    got: list[str] = []
    lines = Lines(got.append)
    for _ in range(100):
        lines.feed(b"." * 10_000)
    assert len(lines._rest) <= 16 * command.LONGEST
    assert all(len(line) == command.LONGEST for line in got)


def test_a_running_command_is_read_line_by_line(tmp_path: Path) -> None:
    """The line is there while the command still runs: it waits for a file that only its reader makes."""
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        (tmp_path / "seen").touch()

    script = "import time, pathlib\nprint('here')\nwhile not pathlib.Path('seen').exists(): time.sleep(0.01)"
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    assert Command([sys.executable, "-c", script], dict(env), str(tmp_path)).follow(Lines(log)) == 0
    assert lines == ["here"]
