"""Texts as token ids, and the batches that encoders train on: padded rows, masked rows, labelled rows.

Masking is BERT's (Devlin et al. 2019, section 3.1): of the chosen tokens 80% become <mask>, 10% another token and 10%
stay, so that the encoder cannot rely on seeing a mask where it has to know something. Rows are masked anew each time
they are drawn (Liu et al. 2019, section 4.1), as a pure function of the generator that the loader gives; in validation
of the row's number, so that all validations guess the same tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from components.data.tokenizer import MASK, PAD, SPECIAL

if TYPE_CHECKING:
    import tokenizers

MASKED, REPLACED = 0.8, 0.1  # shares of the chosen tokens
UNCHOSEN = -100  # target of a token that is not to be guessed, as in torch's cross_entropy


def encode(texts: Iterable[str], tokenizer: "tokenizers.Tokenizer") -> Iterator[list[int]]:
    """The ids of each text. An empty one becomes a <pad> that counts as a token: without any there is no mean."""
    remaining = iter(texts)
    while some := list(islice(remaining, 1000)):
        for row in tokenizer.encode_batch_fast(some, add_special_tokens=False):
            yield row.ids or [PAD]


def cut(rows: Iterable[list[int]], context: int) -> Iterator[list[int]]:
    """All of each row, in pieces of up to `context` tokens."""
    for row in rows:
        yield from (row[start : start + context] for start in range(0, len(row), context))


class Rows(Sequence):
    """Rows of ids in one array: `rows[i]` -> int64 [tokens]."""

    def __init__(self, rows: Iterable[list[int]]):
        parts = [np.array(row, np.int32) for row in rows]
        self.lengths = np.array([len(part) for part in parts], np.int64)
        self._ends = np.cumsum(self.lengths)
        self._ids = np.concatenate([np.empty(0, np.int32), *parts])

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> np.ndarray:  # type: ignore[override]  # no slices
        end = self._ends[number]
        return self._ids[end - self.lengths[number] : end].astype(np.int64)


class MaskedBatch(NamedTuple):
    ids: Tensor  # int64 [b, n], what the encoder sees
    mask: Tensor | None  # bool [b, n], True where a token is real; None when all are
    targets: Tensor  # int64 [b, n], UNCHOSEN but for the tokens to guess


class LabelledBatch(NamedTuple):
    ids: Tensor  # int64 [b, n]
    mask: Tensor | None  # bool [b, n]
    labels: Tensor  # int64 [b]


class MaskedRows:
    """Examples for a loader: (ids, targets) with `share` of the tokens chosen."""

    def __init__(self, rows: Rows, share: float, vocabulary: int):
        self.rows, self.share, self.vocabulary = rows, share, vocabulary

    def __len__(self) -> int:
        return len(self.rows)

    def __call__(self, index: int, rng: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
        return mask(self.rows[index], self.share, self.vocabulary, rng or np.random.default_rng(index))


class LabelledRows:
    """Examples for a loader: (ids, label). In training `hidden` of the tokens become <mask>, lest one be relied on."""

    def __init__(self, rows: Rows, labels: np.ndarray, hidden: float):
        self.rows, self.labels, self.hidden = rows, labels, hidden

    def __len__(self) -> int:
        return len(self.rows)

    def __call__(self, index: int, rng: np.random.Generator | None) -> tuple[np.ndarray, int]:
        ids = self.rows[index]
        if rng is not None:
            ids = np.where(rng.random(len(ids)) < self.hidden, MASK, ids)
        return ids, int(self.labels[index])


def mask(ids: np.ndarray, share: float, vocabulary: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(what the encoder sees, targets), both int64 [tokens].

    share * tokens are chosen, the fraction by lot, and one at least: a short text is no wasted row.
    """
    count = max(1, int(share * len(ids) + rng.random()))
    chosen = rng.permutation(len(ids))[:count]
    targets = np.full_like(ids, UNCHOSEN)
    targets[chosen] = ids[chosen]
    fate = rng.random(count)
    seen = ids.copy()
    seen[chosen[fate < MASKED]] = MASK
    replaced = chosen[(fate >= MASKED) & (fate < MASKED + REPLACED)]
    seen[replaced] = rng.integers(len(SPECIAL), vocabulary, len(replaced))
    return seen, targets


def pad(rows: Sequence[np.ndarray], filler: int = PAD) -> Tensor:
    """Rows of unequal length as int64 [b, n], filled on the right."""
    padded = np.full((len(rows), max(map(len, rows))), filler, np.int64)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(padded)


def real(rows: Sequence[np.ndarray]) -> Tensor | None:
    """The mask that belongs to `pad(rows)`; None when no row is padded."""
    lengths = torch.tensor([len(row) for row in rows])
    return None if (lengths == lengths[0]).all() else torch.arange(int(lengths.max())) < lengths[:, None]


def collate_masked(examples: list[tuple[np.ndarray, np.ndarray]]) -> MaskedBatch:
    ids, targets = zip(*examples, strict=True)
    return MaskedBatch(pad(ids), real(ids), pad(targets, UNCHOSEN))


def collate_labelled(examples: list[tuple[np.ndarray, int]]) -> LabelledBatch:
    ids, labels = zip(*examples, strict=True)
    return LabelledBatch(pad(ids), real(ids), torch.tensor(labels))
