"""Which version is served: the pointer is moved to a champion, a challenger beside it, and back again.

The tags of the registry say what is meant, the pointer what is served; the tag goes first, so that a kill in between
is mended by doing the same once more. Rolling back needs neither cache nor remote: the files of the champion before
still lie in the serving folder, and are hashed again.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from components.inference import pointer
from components.inference.pointer import Challenger, Pointer
from flows.processes import alone
from flows.releases import registry
from flows.releases.materialise import materialise
from flows.workspace import Refused

CHAMPION, CHALLENGER = "champion", "challenger"


def deploy(repo: Path, serving: Path, name: str, version: str) -> Pointer:
    """Make a version the champion; a challenger's trial against the champion before is over.

    Raises:
        Refused: no such version, or its files do not verify; the champion before keeps serving.
    """
    champion = materialise(repo, name, version, serving)

    def change(now: Pointer | None) -> Pointer:
        registry.assign(repo, name, version, CHAMPION)
        _end_trial(repo, name)
        return Pointer(name, champion, None, now.serial if now else 1)

    return _move(repo, serving, name, change)


def challenge(repo: Path, serving: Path, name: str, version: str, share: float, mode: str, experiment: str) -> Pointer:
    """Put a version on trial beside the champion, in place of the one that is.

    Args:
        share: 0 to 1, of the users (mode "canary") or of the requests (mode "shadow").
        version: may be the champion's own: an A/A trial.

    Raises:
        Refused: nothing is deployed, no such version, or its files do not verify.
    """
    candidate = materialise(repo, name, version, serving)
    try:
        challenger = Challenger(**vars(candidate), share=share, mode=mode, experiment=experiment)
    except ValueError as error:
        raise Refused(str(error)) from None

    def change(now: Pointer | None) -> Pointer:
        present = _present(now, name)
        registry.assign(repo, name, version, CHALLENGER)
        return replace(present, challenger=challenger)

    return _move(repo, serving, name, change)


def withdraw(repo: Path, serving: Path, name: str) -> Pointer:
    """End the challenger's trial; the champion keeps serving alone."""

    def change(now: Pointer | None) -> Pointer:
        present = _present(now, name)
        _end_trial(repo, name)
        return replace(present, challenger=None)

    return _move(repo, serving, name, change)


def rollback(repo: Path, serving: Path, name: str) -> Pointer:
    """Give the place back to the champion before, and end a challenger's trial. Again: to the one before that.

    Raises:
        Refused: there is none, or its files are gone and cannot be had again.
    """

    def change(now: Pointer | None) -> Pointer:
        present = _present(now, name)
        stack = registry.holders(repo, name, CHAMPION)
        bad = present.champion.version
        keep = stack[: stack.index(bad)] if bad in stack else stack  # not in it: a rollback was killed half-way
        if not keep:
            raise Refused(f"{name}@{bad} has no champion before it: `tsumugi deploy {name} VERSION` another one")
        champion = materialise(repo, name, keep[-1], serving)
        for version in reversed(stack[len(keep) :]):
            registry.unassign(repo, name, version, CHAMPION)
        _end_trial(repo, name)
        return replace(present, champion=champion, challenger=None)

    return _move(repo, serving, name, change)


def _present(now: Pointer | None, name: str) -> Pointer:
    if now is None:
        raise Refused(f"there is no pointer of {name} that reads: `tsumugi deploy {name} VERSION` writes one")
    return now


def _end_trial(repo: Path, name: str) -> None:
    for version in registry.holders(repo, name, CHALLENGER):
        registry.unassign(repo, name, version, CHALLENGER)


def _move(repo: Path, serving: Path, name: str, change: Callable[[Pointer | None], Pointer]) -> Pointer:
    """Write what change() makes of the pointer under the next serial; leave the file alone where it stays as it is.

    The tags go to the origin last: it may be slow.
    """
    registry.check(name)
    path = pointer.place(serving, name)
    with alone(serving / f".{name}.lock"):
        last = 0
        try:
            now = pointer.read(path)
            last = now.serial
        except FileNotFoundError:
            now = None
        except ValueError:  # damaged: only deploy() can go on, with a serial above any that was counted
            now, last = None, int(time.time())
        moved = change(now)
        if moved != now:
            moved = replace(moved, serial=last + 1)
            try:
                pointer.write(path, moved)
            except OSError as error:
                raise Refused(f"{path} was not written: {error.strerror}: the champion before keeps serving") from error
    registry.share(repo, name)
    return moved
