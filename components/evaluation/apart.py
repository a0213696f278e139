"""A measurement in a process of its own: what it holds in memory is its own, and others run between its rounds."""

import multiprocessing
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Apart(Generic[Result]):
    """`make` builds a callable there, in a forked process; each call of this object is one call of it.

    Leave it as a context, or its process stays until this one ends. RuntimeError: the process ended by itself, as one
    does that is killed for memory; another error there is raised here with its own message.
    On CUDA a fork cannot use the parent's GPU: let the parent not touch it before.
    """

    def __init__(self, make: Callable[[], Callable[[], Result]]) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, theirs, self._pipe), daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self) -> Result:
        try:
            self._pipe.send(True)
            error, result = self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            raise RuntimeError(
                f"the process that measures ended with status {self._process.exitcode}: is there memory for it?"
            ) from None
        if error:
            raise RuntimeError(error)
        return result

    def __enter__(self) -> "Apart[Result]":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pipe.close()
        self._process.join()


def _serve(make: Callable[[], Callable[[], Result]], pipe, parents) -> None:
    parents.close()  # or the parent's end would never close for this process
    run = None
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        try:
            run = run or make()
            pipe.send((None, run()))
        except Exception as error:  # told to the parent, which raises it
            pipe.send((f"{type(error).__name__}: {error}", None))
