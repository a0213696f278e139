"""Recall: one token carries a value, noise follows, and at the end a query asks for the value.

The smallest task that needs memory and nothing else, in the line of Hochreiter & Schmidhuber's (1997, section 5) and of
the copying of Arjovsky et al. (2016, section 4.1): how far back a model reaches is all that it measures, and chance is
known. Sequence i is a pure function of (seed, part, i), so no file is needed.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

TRAIN, HELD_OUT = 0, 1  # parts, which draw from streams of their own
QUERY, VALUES = 0, 1  # the query's id, and the first value's; behind the values' come the noise's


@dataclass(frozen=True)
class Recall:
    """Examples for a loader: (ids int64 [length], id of the value).

    distance: tokens from the value to the query, 1 for neighbours; None: the value stands anywhere before the query.
    """

    count: int  # sequences
    length: int  # tokens, the query among them
    distance: int | None
    values: int  # kinds of values
    noise: int  # kinds of noise tokens
    seed: int
    part: int = TRAIN

    def __post_init__(self) -> None:
        if self.distance is not None and not 0 < self.distance < self.length:
            raise ValueError(f"a distance of {self.distance} does not fit into {self.length} tokens with the query")

    def __len__(self) -> int:
        return self.count

    def __call__(self, index: int, _: np.random.Generator | None = None) -> tuple[np.ndarray, int]:
        rng = np.random.default_rng((self.seed, self.part, index))
        value = VALUES + int(rng.integers(self.values))
        distance = int(rng.integers(1, self.length)) if self.distance is None else self.distance
        ids = VALUES + self.values + rng.integers(self.noise, size=self.length)
        ids[-1] = QUERY
        ids[-1 - distance] = value
        return ids, value

    @property
    def vocabulary(self) -> int:
        return VALUES + self.values + self.noise

    @property
    def chance(self) -> float:
        """Accuracy of a guess."""
        return 1 / self.values


def collate(examples: list[tuple[np.ndarray, int]]) -> tuple[Tensor, Tensor]:
    """ids int64 [b, n], values int64 [b]."""
    ids, values = zip(*examples, strict=True)
    return torch.from_numpy(np.stack(ids)), torch.tensor(values)
