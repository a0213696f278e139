"""The order of samples: a pure function of seed, epoch and global position.

Position p is the p-th sample since the start of training, across epochs: epoch p // n, a permutation of the n samples
each. One number in a checkpoint therefore says where the data stands, and any number of workers or processes can
compute any part of the same order. With `lengths`, batches hold samples of similar length (less padding): each window
of batches is sorted and its batches are shuffled again, which is still one permutation an epoch.
"""

from functools import lru_cache

import numpy as np

WINDOW = 32  # batches sorted together: wide enough for even lengths, narrow enough to stay random


class Order:
    """`order[start:stop]` -> int64 array: the samples at those global positions (0 <= start <= stop, unbounded)."""

    def __init__(self, count: int, seed: int, lengths: np.ndarray | None = None, batch_size: int = 1):
        if count < 1:
            raise ValueError("an order needs at least one sample: the split is empty")
        self.count, self.seed, self.lengths, self.batch_size = count, seed, lengths, batch_size
        self._epoch = lru_cache(maxsize=2)(self._permutation)  # a batch touches two epochs at most where n >= batch

    def __getitem__(self, positions: slice) -> np.ndarray:
        start, stop = positions.start, positions.stop
        parts = [np.empty(0, np.int64)]
        while start < stop:
            epoch, offset = divmod(start, self.count)
            take = min(stop - start, self.count - offset)
            parts.append(self._epoch(epoch)[offset : offset + take])
            start += take
        return np.concatenate(parts)

    def _permutation(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        permutation = rng.permutation(self.count)
        if self.lengths is None:
            return permutation
        head = -epoch * self.count % self.batch_size  # finishes the batch that the last epoch began
        parts = [permutation[:head]]
        for start in range(head, self.count, WINDOW * self.batch_size):
            window = permutation[start : start + WINDOW * self.batch_size]
            window = window[np.argsort(self.lengths[window], kind="stable")]
            whole = len(window) // self.batch_size
            batches = window[: whole * self.batch_size].reshape(whole, self.batch_size)
            parts += [*rng.permutation(batches), window[whole * self.batch_size :]]
        return np.concatenate(parts)
