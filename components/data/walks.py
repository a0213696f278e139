"""Walks over a random graph of tokens: a language of known entropy, made as fast as it is read.

From each token four others may follow, equally likely: no model can guess the next token with less than ln 4 = 1.386
nats, and one that has learned the graph needs no more. A walk is a pure function of (seed, index).
"""

import numpy as np
from jaxtyping import Int

SUCCESSORS = 4
ENTROPY = float(np.log(SUCCESSORS))  # nats a token


class Walks:
    """`count` examples of length + 1 tokens for a loader: inputs and targets shifted by one."""

    def __init__(self, vocabulary: int, length: int, seed: int, count: int) -> None:
        self.count, self.length, self.seed = count, length, seed
        self.successors = np.random.default_rng(0).integers(vocabulary, size=(vocabulary, SUCCESSORS))

    def __len__(self) -> int:
        return self.count

    def __call__(self, index: int, _: np.random.Generator | None) -> Int[np.ndarray, " tokens"]:
        rng = np.random.default_rng((self.seed, index))
        walk = np.empty(self.length + 1, np.int64)
        walk[0] = rng.integers(len(self.successors))
        for place, choice in enumerate(rng.integers(SUCCESSORS, size=self.length)):
            walk[place + 1] = self.successors[walk[place], choice]
        return walk
