"""Batches from a position: `loader(start)` yields batch start, start + 1, ... without end.

Each sample is prepared by `examples(index, rng)` with a generator seeded by (seed, position), so that augmentation is
as pure as the order, whichever worker does it. Workers make whole batches, in torch's DataLoader (forked, so that
nothing is pickled); its own seed comes from a private generator, because it would else draw from dropout's.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from components.data.order import Order

Batch = TypeVar("Batch")


@runtime_checkable
class Examples(Protocol):
    """What a loader draws from. `rng` None asks for the example as it is, without augmentation (validation)."""

    def __len__(self) -> int: ...

    def __call__(self, index: int, rng: np.random.Generator | None, /) -> Any: ...


@runtime_checkable
class NamedExamples(Protocol):
    """Examples that have names, for reports."""

    def name(self, index: int) -> str: ...


class Prepared:
    """Examples made from records (any sequence) by `prepare(record, rng)`."""

    def __init__(self, records: Sequence, prepare: Callable[[Any, np.random.Generator | None], Any]):
        self.records, self.prepare = records, prepare

    def __len__(self) -> int:
        return len(self.records)

    def __call__(self, index: int, rng: np.random.Generator | None) -> Any:
        return self.prepare(self.records[index], rng)

    def name(self, index: int) -> str:
        """The record's key, or its number where it has none."""
        record = self.records[index]
        return str(record.get("key", index)) if isinstance(record, dict) else str(index)


class Loader(Generic[Batch]):
    """Calls `collate(list of batch_size examples)` for each batch; see the head of this file.

    `workers` processes prepare batches ahead (0: none, in this process); the batches do not depend on it.
    `lengths` [n]: sort nearby samples by length (see order.py), by steps of `accumulation` batches, so that a step
    has the examples that one large batch would have.
    """

    def __init__(
        self,
        examples: Examples,
        collate: Callable[[list], Batch],
        batch_size: int,
        seed: int,
        workers: int = 0,
        lengths: np.ndarray | None = None,
        accumulation: int = 1,
    ):
        self.examples, self.collate, self.batch_size = examples, collate, batch_size
        self.seed, self.workers = seed, workers
        self.order = Order(len(examples), seed, lengths, batch_size * accumulation)

    def __call__(self, start: int) -> Iterator[Batch]:
        """Endless batches, from the `start`-th of the run (= the number of batches already consumed)."""
        if self.workers == 0:
            return (self[number] for number in itertools.count(start))
        return self._with_workers(start)

    def __getitem__(self, number: int) -> Batch:
        """The batch of that number: positions number * batch_size and on."""
        first = number * self.batch_size
        rngs = (np.random.default_rng((self.seed, first + offset)) for offset in range(self.batch_size))
        return self.collate([self.examples(index, rng) for index, rng in zip(self.indices(number), rngs, strict=True)])

    def indices(self, number: int) -> list[int]:
        """The examples in the batch of that number."""
        first = number * self.batch_size
        return self.order[first : first + self.batch_size].tolist()

    def names(self, number: int) -> list[str]:
        """Names of the examples in the batch of that number; their indices where they have none."""
        name = self.examples.name if isinstance(self.examples, NamedExamples) else str
        return [name(index) for index in self.indices(number)]

    def in_order(self) -> Iterator[Batch]:
        """One finite pass over all examples, in index order, not augmented; the last batch may be smaller."""
        for start in range(0, len(self.examples), self.batch_size):
            stop = min(start + self.batch_size, len(self.examples))
            yield self.collate([self.examples(index, None) for index in range(start, stop)])

    def _with_workers(self, start: int) -> Iterator[Batch]:
        import torch
        from torch.utils.data import DataLoader

        batches = DataLoader(
            self,  # type: ignore[arg-type]  # a map from number to batch is all that it needs
            batch_size=None,
            sampler=itertools.count(start),
            num_workers=self.workers,
            collate_fn=lambda batch: batch,
            multiprocessing_context="fork",
            generator=torch.Generator().manual_seed(self.seed),
        )
        iterator = iter(batches)
        try:
            yield from iterator
        finally:  # closed, or failed: a traceback would keep the iterator alive, and with it the workers
            iterator._shutdown_workers()  # type: ignore[attr-defined]
