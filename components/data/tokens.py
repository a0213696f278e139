"""Memory-mapped token files: a corpus as one row of numbers, and windows of it as a language model's examples."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.durable import whole

if TYPE_CHECKING:
    import tokenizers
    from torch import Tensor


def pack(texts: Iterable[str], tokenizer: "tokenizers.Tokenizer", path: Path, separator: int | None) -> np.ndarray:
    """Encodes the texts one after the other, `separator` (a token id, if any) after each, into the file `path` (.npy).

    Returns the memory-mapped ids [n], uint16 or uint32 by the size of the vocabulary."""
    kind = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32
    end = [] if separator is None else [separator]
    parts = [np.empty(0, kind)]
    remaining = iter(texts)
    while some := list(islice(remaining, 1000)):
        encoded = tokenizer.encode_batch_fast(some, add_special_tokens=False)
        parts.append(np.fromiter((token for text in encoded for token in text.ids + end), kind))
    with whole(path) as draft, draft.open("wb") as file:
        np.save(file, np.concatenate(parts), allow_pickle=False)
    return read(path)


def collate(examples: "list[np.ndarray]") -> "Tensor":
    """Rows of one length as int64 [b, n]."""
    import torch  # late: corpora are packed and read without it

    return torch.from_numpy(np.stack(examples))


def read(path: Path) -> np.ndarray:
    """The ids [n] of a token file, memory-mapped."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


class Windows:
    """Examples for a loader: int64 [length + 1], inputs and targets shifted by one.

    Window i starts at i * length, moved on by less than `length` when drawn with a generator: an epoch covers the
    corpus once, from other starts each time."""

    def __init__(self, tokens: np.ndarray, length: int):
        if len(tokens) <= length:
            raise ValueError(f"the corpus has {len(tokens)} tokens, too few for one window of {length} + 1")
        self.tokens, self.length = tokens, length

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.length

    def __call__(self, index: int, rng: np.random.Generator | None) -> np.ndarray:
        start = index * self.length
        if rng is not None:
            start = min(start + int(rng.integers(self.length)), len(self.tokens) - self.length - 1)
        return self.tokens[start : start + self.length + 1].astype(np.int64)
