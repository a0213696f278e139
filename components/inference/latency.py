"""What it costs to answer: seconds of single requests, items a second in batches, and memory, variant beside variant.

Each variant lives in a process of its own (evaluation/apart.py), so that its memory is its own, and all of them answer
once a round: what slows the machine for a while slows all. Requests that warm up are not counted.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from components.evaluation.apart import Apart
from components.evaluation.measure import peak_memory
from components.training.memory import Gauge

WARM = 3  # requests before the first one that counts


@dataclass(frozen=True)
class Work:
    """A loaded model at work."""

    requests: Sequence[Callable[[], object]]  # each answers one
    batch: Callable[[], object]  # answers `items` at once
    items: int  # pictures, texts, sounds or tokens of a batch
    quality: Callable[[], float]
    size: int  # bytes of its weights as a file


def measure(makes: Mapping[str, Callable[[], Work]], rounds: int) -> dict[str, dict[str, float]]:
    """Figures of each: `p50`, `p99` (seconds a request), `throughput` (items a second in batches, the median round's),
    `memory` (bytes, at the peak of a batch, above what the process held before it loaded), `size` (bytes), `quality`.

    Each `makes` loads its model, in a fork of this process: let torch not have computed here before. RuntimeError: one
    of them failed there, with its message.
    """
    with ExitStack() as stack:
        there = {name: stack.enter_context(Apart(_steps(make))) for name, make in makes.items()}
        figures = {name: each() for name, each in there.items()}
        taken: dict[str, list[dict[str, Any]]] = {name: [] for name in there}
        for _ in range(rounds):
            for name, each in there.items():
                taken[name].append(each())
    for name, each in taken.items():
        seconds = [one for round_ in each for one in round_["seconds"]]
        p50, p99 = np.percentile(seconds, (50, 99)).tolist()
        throughput = float(np.median([round_["throughput"] for round_ in each]))
        figures[name] = {"p50": p50, "p99": p99, "throughput": throughput, **figures[name]}
    return figures


def _steps(make: Callable[[], Work]) -> Callable[[], Callable[[], dict[str, Any]]]:
    """What a process does at each call: first its memory and quality, then a round each time."""

    def begin() -> Callable[[], dict[str, Any]]:
        steps = _run(make)
        return lambda: next(steps)

    return begin


def _run(make: Callable[[], Work]) -> Iterator[dict[str, Any]]:
    before = _resident()
    work = make()
    for number in range(WARM):
        work.requests[number % len(work.requests)]()
    work.batch()
    memory = _resident() - before + peak_memory(work.batch)
    yield {"memory": float(memory), "size": float(work.size), "quality": work.quality()}
    while True:
        seconds = [_seconds(request) for request in work.requests]
        yield {"seconds": seconds, "throughput": work.items / _seconds(work.batch)}


def _resident() -> int:
    """Bytes that this process holds, without the freed ones, which are given back from the first call on."""
    peak_memory(lambda: None)
    return Gauge(torch.device("cpu")).before


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
