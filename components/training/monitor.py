"""What people see of a run while it trains: progress, speed, memory, live curves. None of it is hashed or resumed."""

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from components.training.ceiling import matmul_ceiling
from components.training.compiled import activations_of
from components.training.config import FitConfig
from components.training.evaluate import validated
from components.training.events import Events
from components.training.memory import Gauge, size
from components.training.precision import TYPES
from components.training.profile import Profile
from components.training.progress import Progress, say
from components.training.rehearsal import rehearse
from components.training.state import State
from components.training.task import Measured, Task

WARM = 3  # steps after which the measured memory is printed: the second is the first with the optimiser's state
NOTED = 100e6  # bytes above the expected from which on it is said why
LONG = 10.0  # seconds of training from which on the ceiling is worth its third of a second


class Monitor:
    """Without `checkpoints` it only shows progress: nothing is rehearsed or written."""

    def __init__(self, task: Task, state: State, config: FitConfig, checkpoints: Path | None) -> None:
        self.task, self.state, self.config = task, state, config
        self.progress = Progress(state.step, config.steps, config.batch_size * config.accumulation)
        self.began, self.start = time.monotonic(), state.step
        self.totals: Counter[str] = Counter()  # since this process began: examples, units of the task, FLOPs
        self.seen = (self.began, Counter[str]())  # the same at the last point of the live curves
        self.ceiling = 0.0  # FLOP/s; 0: not measured
        self.gauge: Gauge | None = None
        self.flops = 0  # of the first micro-batch; 0: not known, or no longer
        self.first: Any = None  # the size of that one (_size)
        # what is computed again counts as work (Korthikanti et al. 2022, section 5: hardware, not model utilisation)
        self.kind = "" if activations_of(config) == "keep" else "hardware_"
        self.rows = len(state.rows)  # that are in the live curves
        self.checkpoints = checkpoints
        self.events = Events(checkpoints, state.step) if checkpoints else None
        self.profile = Profile(config.profile, state.device, checkpoints) if config.profile else None

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *error: object) -> None:
        for part in (self.events, self.profile):
            if part:
                part.close()

    def watch(self, micro_batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches, counted; before the first one a rehearsal of the step with it."""
        first = next(micro_batches)
        if self.checkpoints:
            self._expect(first)
        for batch in itertools.chain([first], micro_batches):
            units = self.task.units(batch) if isinstance(self.task, Measured) else {}
            self.totals.update(units, examples=self.config.batch_size)
            if self.flops:
                self._count(_size(batch, units))
            yield batch

    def _count(self, size: "int | list[torch.Size]") -> None:
        """FLOPs are those of the first micro-batch, by its first unit; without units they end where shapes vary."""
        if size == self.first:
            self.totals["flops"] += self.flops
        elif isinstance(size, int):
            self.totals["flops"] += round(self.flops * size / self.first)
        else:
            self.flops = 0
            del self.totals["flops"]

    def _expect(self, batch: Any) -> None:
        expected = rehearse(self.task, batch, self.config)
        self.flops = expected.flops
        self.first = _size(batch, self.task.units(batch) if isinstance(self.task, Measured) else {})
        self.gauge = Gauge(self.state.device)
        self.weights, self.expected = expected.memory.weights, expected.memory.peak
        say(f"memory of a step, expected: {expected.memory}")

    def _compare(self, measured: int) -> None:
        say(f"memory of a step, measured: {size(measured)}")
        if self.state.device.type == "cpu" and measured - self.expected > max(0.15 * self.expected, NOTED):
            say("the allocator keeps freed blocks; the variable MALLOC_MMAP_THRESHOLD_=65536 has it give them back")

    def stepped(self) -> None:
        """After each step, when all that belongs to it is done."""
        if self.profile:
            self.profile.step()
        if self.gauge and self.state.step - self.start == WARM:
            self._compare(self.weights + self.gauge.peak())
        if self.events and self.rows < len(self.state.rows):
            rates = self._rates(self.seen)
            speed = {f"speed/{name}_per_second": rate for name, rate in rates.items()}
            if share := self._share(rates):
                speed[f"speed/{self.kind}share_of_matmul"] = share
            self.seen = (time.monotonic(), self.totals.copy())
            for row in self.state.rows[self.rows :]:
                self.events.add(row)
            self.events.add({"step": self.state.step, **speed, **self._peak()})
            self.events.flush()
            self.rows = len(self.state.rows)

    def due(self) -> bool:
        """It is time for a line."""
        return self.progress.due()

    def line(self, loss: float) -> None:
        rates = self._rates((self.began, Counter()))
        notes = [f"{rate:,.0f} {name}/s" for name, rate in rates.items() if name not in ("examples", "flops")]
        if share := self._share(rates):
            kind = ", hardware utilisation" if self.kind else ""
            notes.append(f"{rates['flops'] / 1e9:,.0f} GFLOP/s ({share:.0%} of matmul{kind})")
        notes += [size(int(value)) for value in self._peak().values()]
        self.progress.show(self.state.step, {"loss": loss} | validated(self.state), notes)

    def seconds(self) -> float:
        return self.progress.seconds()

    def _rates(self, since: tuple[float, Counter[str]]) -> dict[str, float]:
        """A second, since a moment with its totals."""
        moment, before = since
        elapsed = max(time.monotonic() - moment, 1e-9)
        return {name: (total - before[name]) / elapsed for name, total in self.totals.items() if total}

    def _share(self, rates: dict[str, float]) -> float:
        """Of the matmul ceiling, which is measured when a run has turned out long; 0 before, or without FLOPs."""
        if "flops" not in rates:
            return 0.0
        if not self.ceiling and time.monotonic() - self.began > LONG:
            self.ceiling = matmul_ceiling(TYPES[self.config.precision], self.state.device)
        return rates["flops"] / self.ceiling if self.ceiling else 0.0

    def _peak(self) -> dict[str, float]:
        return {"memory/peak_bytes": float(self.weights + self.gauge.peak())} if self.gauge else {}


def _size(batch: Any, units: dict[str, int]) -> "int | list[torch.Size]":
    """What FLOPs go by: the first of a batch's units, else the shapes of its tensors."""
    return next(iter(units.values()), None) or [leaf.shape for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
