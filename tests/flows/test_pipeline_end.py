"""How a run ends from outside: cancelled, killed, orphaned; and its command line. Real processes, real signals."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.flows.tools import Make, alive, repro, start, status, until

# one stage ends at once; one runs on with a daemon in a session of its own; one waits for it
DVC = """\
stages:
  quick: {cmd: echo 1 > quick.txt, outs: [quick.txt]}
  endless:
    cmd: "setsid sh -c 'echo $$ > daemon; exec sleep 300' & echo $$ > shell;
      until test -e go; do sleep 0.05; done; touch out"
    outs: [out]
  after: {cmd: cp out after.txt, deps: [out], outs: [after.txt]}
"""


def begin(root: Path, **env: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A flow whose first stage is recorded and whose second one runs; the process, and those of the stage."""
    flow = start("-m", "flows.pipeline", "--repo", root, "--slots", 2, **env)
    return flow, underway(root)


def underway(root: Path) -> list[int]:
    pids = [root / "daemon", root / "shell"]
    lock = root / "dvc.lock"
    until(lambda: all(file.exists() and file.read_text().endswith("\n") for file in pids), 120)
    until(lambda: lock.exists() and "quick" in lock.read_text())
    return [int(file.read_text()) for file in pids]


def flow_run(said: str) -> str:
    found = re.search(r"runs/flow-run/([0-9a-f-]{36})", said)
    assert found, said
    return found[1]


def goes_on(root: Path) -> None:
    """What had ended stays, and a next `dvc repro` does the rest."""
    assert "endless" not in (root / "dvc.lock").read_text()
    (root / "go").touch()
    daemon = root / "daemon"
    daemon.unlink()
    assert repro(root) == ["endless", "after"]
    assert status(root) == {}
    until(lambda: daemon.exists() and daemon.read_text().endswith("\n"))
    os.kill(int(daemon.read_text()), signal.SIGKILL)  # which dvc left running


def test_a_cancellation_in_the_ui_ends_the_stages(make: Make, server: str) -> None:
    root = make({"dvc.yaml": DVC})
    flow, family = begin(root)
    running = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
    (run,) = httpx.post(f"{server}/flow_runs/filter", json=running).json()
    httpx.post(f"{server}/flow_runs/{run['id']}/set_state", json={"state": {"type": "CANCELLING"}}).raise_for_status()
    said, _ = flow.communicate(timeout=60)
    assert flow.returncode == 130
    assert re.match(
        r"Cancelled: 3 stages in .* s: 1 Completed, 1 Cancelled|Cancelled: .*1 Cancelled", said.splitlines()[-1]
    )
    assert not alive(family)
    assert httpx.get(f"{server}/flow_runs/{run['id']}").json()["state_name"] == "Cancelled"
    goes_on(root)


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_a_signal_to_the_flow_ends_the_stages(how: signal.Signals, code: int, make: Make, server: str) -> None:
    root = make({"dvc.yaml": DVC})
    flow, family = begin(root)
    flow.send_signal(how)
    said, _ = flow.communicate(timeout=60)
    assert flow.returncode == code
    until(lambda: not alive(family))
    if how != signal.SIGKILL:
        state = httpx.get(f"{server}/flow_runs/{flow_run(said)}").json()["state_name"]
        assert state == ("Cancelled" if how == signal.SIGINT else "Crashed")
    goes_on(root)


def test_kill_9_of_the_worker_ends_the_stages(make: Make, server: str) -> None:
    """The worker here is a process that looks like one, and has started the flow as a worker does."""
    root = make({"dvc.yaml": DVC})
    started = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-m', 'flows.pipeline', '--repo', {str(root)!r}])"
    )
    worker = start("-c", started, "worker", "start")
    family = underway(root)
    worker.kill()
    said, _ = worker.communicate(timeout=60)  # until the flow, which writes to the same pipe, has ended too
    assert "Crashed" in said.splitlines()[-1]
    assert not alive(family)
    goes_on(root)


def test_the_command_line_says_how_it_ended(make: Make, tmp_path: Path, server: str) -> None:
    root = make({"dvc.yaml": DVC, "go": ""})
    outside = tmp_path / "outside"
    outside.mkdir()
    env = dict(os.environ)
    commands = {
        (root, "--targets", "quick"): (0, r"Completed: 1 stages in \S+ s: 1 Completed"),
        (root, "--targets", "quik"): (2, r"Refused: no stage or .dvc file 'quik' here; there is quick"),
        (outside,): (2, r"refused: .* in no DVC repository .*"),
    }
    processes = {
        words: subprocess.Popen(
            [sys.executable, "-m", "flows.pipeline", "--repo", *words],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for words in commands
    }  # fmt: skip
    for words, (code, last) in commands.items():
        said, _ = processes[words].communicate(timeout=120)
        assert processes[words].returncode == code, said
        assert re.fullmatch(last, said.splitlines()[-1]), said
