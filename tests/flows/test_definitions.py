"""dvc.lock as it is written: what DVC would write, whole at every moment, whatever happens to disk and process."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.bridge import Outlook, Work
from tests.flows.tools import Make, bridge, repro, settle, status


def stages(count: int) -> dict[str, str]:
    lines = [f"  s{i}: {{cmd: echo {i} > {i}.txt, outs: [{i}.txt]}}" for i in range(count)]
    return {"dvc.yaml": "stages:\n" + "\n".join(lines)}


def test_a_kill_while_dvc_lock_is_written_leaves_it_whole(make: Make) -> None:
    """Twelve processes are killed, at moments spread over the writing."""
    root = make(stages(10))
    repro(root)
    whole = (root / "dvc.lock").read_text()
    with bridge(root) as b:
        stage = b._definitions.load("s3")
        for attempt in range(12):
            writer = os.fork()
            if not writer:
                while True:
                    b._definitions.write(stage)
            time.sleep(0.011 * (attempt + 1))
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
            assert (root / "dvc.lock").read_text() == whole
        settle(b, "s3")
    assert status(root) == {}


@contextmanager
def full_disk(root: Path, size: str) -> Iterator[None]:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", root], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("to make a small disk takes the right to mount one")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", root], check=True)


def test_a_full_disk_fails_the_stage_and_harms_nothing_else(make: Make, tmp_path: Path) -> None:
    source = make(stages(3), "source")
    root = tmp_path / "small"
    root.mkdir()
    with full_disk(root, "3m"):
        shutil.copytree(source, root, dirs_exist_ok=True)
        repro(root)
        lock = (root / "dvc.lock").read_bytes()
        (root / "dvc.yaml").write_text((root / "dvc.yaml").read_text().replace("echo 1 >", "echo one >"))
        with bridge(root) as b:
            work = b.begin("s1")
            assert isinstance(work, Work)
            b.run(work, lambda line: None)
            fill(root)
            with pytest.raises(OSError, match="No space left"):
                b.finish(work)
            assert (root / "dvc.lock").read_bytes() == lock
            assert [(root / f"{i}.txt").read_text() for i in (0, 2)] == ["0\n", "2\n"]
            (root / "filler").unlink()
            assert settle(b, "s1") in (Outlook.RUN, Outlook.RESTORE)
        assert status(root) == {}


def fill(root: Path) -> None:
    with (root / "filler").open("wb", buffering=0) as filler:
        for size in (65536, 4096, 1):
            try:
                while True:
                    filler.write(b"0" * size)
            except OSError:
                continue


def test_a_failed_write_leaves_dvc_lock_whole(make: Make) -> None:
    """The kernel refuses to let any file grow beyond what dvc.lock has already."""
    root = make(stages(10))
    repro(root)
    lock = (root / "dvc.lock").read_bytes()
    (root / "dvc.yaml").write_text((root / "dvc.yaml").read_text().replace("echo 9 > 9.txt", "echo     9 > 9.txt"))
    with bridge(root) as b:
        work = b.begin("s9")
        assert isinstance(work, Work)
        b.run(work, lambda line: None)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            with b.locks._mutex, b.repo.lock:
                resource.setrlimit(resource.RLIMIT_FSIZE, (len(lock) // 2, before[1]))
                with pytest.raises(OSError, match="File too large"):
                    b._definitions.write(work.stage)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, old)
        assert (root / "dvc.lock").read_bytes() == lock
        b.finish(work)
        assert status(root) == {}


def test_dvc_lock_keeps_its_permissions(make: Make) -> None:
    """A team that shares a checkout may all write it."""
    root = make(stages(2))
    repro(root)
    for mode in (0o664, 0o600):
        (root / "dvc.lock").chmod(mode)
        with bridge(root) as b:
            b._definitions.write(b._definitions.load("s1"))
        assert (root / "dvc.lock").stat().st_mode & 0o777 == mode


AWKWARD = {
    "params.yaml": "deep: {list: [1, 2.50, null, true, 'no'], text: '番号: 5', empty: ''}\nlong: " + "word " * 40,
    "in.txt": "aa\n",
    "dvc.yaml": """\
stages:
  lines: {cmd: "cat in.txt > lines.txt\\n\\n  echo two: '#' >> lines.txt\\n", deps: [in.txt], outs: [lines.txt]}
  long: {cmd: "echo ${long} > 'ちょう い.txt'", deps: [lines.txt], params: [deep, long], outs: ["ちょう い.txt"]}
  list: {cmd: [echo a > a.txt, "echo ': b' > b.txt"], deps: [in.txt], outs: [a.txt, b.txt]}
""",
}


def test_dvc_lock_is_written_as_dvc_writes_it_to_the_byte(make: Make) -> None:
    mine, theirs = make(AWKWARD, "mine"), make(AWKWARD, "theirs")
    for text in ("bb\n", "cc\n"):
        for root in (mine, theirs):
            (root / "in.txt").write_text(text)
        with bridge(mine) as b:
            assert [settle(b, name) for name in ("lines", "long", "list")] == [Outlook.RUN] * 3
        for name in ("lines", "long", "list"):
            subprocess.run([sys.executable, "-m", "dvc", "repro", "-q", "-s", name], cwd=theirs, check=True)
        lock = (theirs / "dvc.lock").read_text()
        assert (mine / "dvc.lock").read_text() == lock
        for root in (mine, theirs):
            (root / "dvc.lock").write_text(lock.replace("stages:", "# by hand\nstages:"))
    assert "# by hand" in lock  # it came through the second round
