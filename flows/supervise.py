"""Runs one command; when it ends, or should end, every process that descends from it ends too.

Killing a process group is not enough: a stage may start sessions of its own, and a daemon's parent is gone. So this
process asks the kernel to become the parent of such orphans (PR_SET_CHILD_SUBREAPER, prctl(2)): whatever the command
starts stays a descendant, to be found under /proc. The lifeline is standard input: a pipe whose other end only the flow
holds. It closes when the flow cancels the stage, and also when the flow dies by kill -9, which no handler could see.

    python -I -S supervise.py COMMAND [ARGUMENT ...]     exits like the command, or with 128 + the signal that ended it

Only the standard library, imported without `site`: it stands before every command of every stage (25 ms).
"""

import ctypes
import os
import select
import signal
import sys
import time

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
LINGER = 0.5  # seconds that helpers of an ended command get to end by themselves (multiprocessing's resource tracker)
GRACE = 5.0  # seconds between SIGTERM and SIGKILL
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def descendants(root: int) -> list[int]:
    """Process ids of all that descend from root, itself not counted, parents first."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as stat:
                    parent = int(
                        stat.read().rpartition(b")")[2].split()[1]
                    )  # field 4; field 2, a name, may hold anything
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry))
    found = [root]
    for pid in found:  # grows while it is walked
        found += children.get(pid, [])
    return found[1:]


def reap(command: int) -> int | None:
    """Collect every child that has ended; the wait status of the command if it was among them."""
    status = None
    while True:
        try:
            pid, ended = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == command:
            status = ended


def end_descendants(command: int, linger: float) -> int | None:
    """SIGTERM once to each descendant, then SIGKILL until none is left; the next look finds what forks meanwhile."""
    begin = time.monotonic()
    told: set[int] = set()
    status = None
    while True:
        ended = reap(command)
        status = status if ended is None else ended
        alive = descendants(os.getpid())
        if not alive:
            return status
        waited = time.monotonic() - begin
        if waited >= linger:
            if linger and not told:
                print(f"ended what the command left running: {len(alive)} processes", flush=True)
            for pid in alive:
                kind = signal.SIGKILL if waited >= linger + GRACE else signal.SIGTERM
                if kind == signal.SIGKILL or pid not in told:
                    told.add(pid)
                    try:
                        os.kill(pid, kind)
                    except ProcessLookupError:
                        pass
        time.sleep(0.01)


def main(arguments: list[str]) -> int:
    """Run the command in a session of its own until it ends, the lifeline closes, or a signal asks to stop."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    asked: list[int] = []
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for kind in STOPPING:
        signal.signal(kind, lambda number, _: asked.append(number))
    nothing = (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)
    command = os.posix_spawnp(arguments[0], arguments, os.environ, file_actions=[nothing], setsid=True)
    while True:
        readable, _, _ = select.select([0, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
        status = reap(command)
        if status is not None:
            end_descendants(command, LINGER)
            break
        if asked or (0 in readable and not os.read(0, 4096)):
            status = end_descendants(command, linger=0)
            break
    assert status is not None
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
