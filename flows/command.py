"""One command of a stage as a process under the supervisor, its output as lines while it runs.

Progress bars rewrite one line with carriage returns, ten times a second: a log keeps such a line's last state, and
shows one on the way every PROGRESS seconds. Colours and cursor movements are left out, bytes that are not UTF-8 are
shown as such.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SUPERVISE = Path(__file__).with_name("supervise.py")
PROGRESS = 10.0  # seconds between two states of a line that rewrites itself
LONGEST = 4000  # characters of a line that are logged
ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[@-Z\\-_])")  # ECMA-48 control sequences


class Lines:
    """Bytes in, finished lines out to `log`; `last` is the last line that said something."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self.last = ""
        self._log = log
        self._rest = b""
        self._shown = time.monotonic()

    def feed(self, data: bytes) -> None:
        *done, self._rest = (self._rest + data).split(b"\n")
        for line in done:
            self._emit(line.rstrip(b"\r").rpartition(b"\r")[2])
        states = self._rest.split(b"\r")
        if len(states) > 1 and states[-2]:
            self._rest = states[-2] + b"\r" + states[-1]  # what a newline may still have to show
            if time.monotonic() - self._shown >= PROGRESS:
                self._emit(states[-2])
                self._rest = states[-1]
        elif len(self._rest) > 16 * LONGEST:  # a line without an end must not fill the memory
            self._emit(self._rest)
            self._rest = b""

    def close(self) -> None:
        states = [state for state in self._rest.split(b"\r") if state.strip()]
        if states:
            self._emit(states[-1])
        self._rest = b""

    def _emit(self, line: bytes) -> None:
        text = ESCAPES.sub("", line.decode(errors="backslashreplace")).rstrip()
        self._shown = time.monotonic()
        if text:
            self.last = text[:LONGEST]
            self._log(self.last)


class Command:
    """A running command. `stop` may be called from any thread; everything that descends from the command then ends."""

    def __init__(self, arguments: list[str], env: dict[str, str], cwd: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SUPERVISE), *arguments],
            env=env,
            cwd=cwd,
            stdin=subprocess.PIPE,  # the lifeline: nothing is ever written to it
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C on a terminal is for the flow
        )

    def stop(self) -> None:
        """Close the lifeline."""
        assert self._process.stdin
        self._process.stdin.close()

    def follow(self, lines: Lines) -> int:
        """Feed the output to lines until the command and all that it started have ended; its exit status."""
        assert self._process.stdout
        with self._process:
            while data := os.read(self._process.stdout.fileno(), 65536):
                lines.feed(data)
        lines.close()
        return self._process.returncode
