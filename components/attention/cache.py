"""Keys and values of the tokens seen so far, in room set aside once: a step writes in place and reads a view.

`Cache` holds rows of one length, `SlotCache` rows that come and go, each with a length of its own.
"""

import ctypes
import sys
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

HUGE = 1 << 21  # bytes of a huge page
MADV_HUGEPAGE = 14  # linux/mman.h


class Cache:
    """Room for `context` tokens of every layer.

    The stack reads `length` (tokens stored), lets each attention `extend` its own layer, and calls `advance` once
    all layers have.
    """

    def __init__(
        self, layers: int, batch: int, heads: int, context: int, features: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        room = (layers, batch, heads, context, features)
        self.keys = torch.empty(room, dtype=dtype, device=device)
        self.values = torch.empty(room, dtype=dtype, device=device)
        self.length = 0

    def extend(
        self, layer: int, keys: Float[Tensor, "b h n c"], values: Float[Tensor, "b h n c"]
    ) -> tuple[Float[Tensor, "b h m c"], Float[Tensor, "b h m c"]]:
        """Store new keys and values of one layer; return all m of it so far, the new ones last."""
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, tokens: int) -> None:
        self.length += tokens


class SlotCache:
    """Room for `slots` rows of up to `context` tokens, each as long as it is (continuous batching: Yu et al. 2022).

    Rows in use are the first ones, so that a pass reads them as a view: a row that leaves is replaced by the last. A
    pass takes n tokens of every row in use and reads no further than the longest of them, rounded up to `BUCKET`; where
    all are as long, and so in a row alone, it writes and reads by slices and needs no mask.
    Letters: b rows in use, n tokens of each in this pass, m places read.
    """

    BUCKET = 16  # places: kernels work in whole vectors

    def __init__(
        self, layers: int, slots: int, heads: int, context: int, features: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        room = (layers, slots, heads, context, features)
        self.keys = _zeros(room, dtype, device)  # not empty: what is masked must be finite, too
        self.values = _zeros(room, dtype, device)
        self.lengths: list[int] = []  # tokens stored of each row in use
        self.width = 0  # places that this pass reads
        self._at: tuple[Tensor | slice, Tensor | slice]

    @property
    def full(self) -> bool:
        return len(self.lengths) == self.keys.shape[1]

    def aim(self, tokens: int) -> slice | Int[Tensor, "b n"]:
        """Begin a pass over so many tokens of every row in use: their places, a slice where all rows are as long."""
        device, context = self.keys.device, self.keys.shape[3]
        if len(set(self.lengths)) == 1:
            self.width = self.lengths[0] + tokens
            places = slice(self.lengths[0], self.width)
            self._at = slice(None, len(self.lengths)), places
            return places
        starts = torch.tensor(self.lengths, device=device).unsqueeze(1)
        places = starts + torch.arange(tokens, device=device)
        self._at = torch.arange(len(self.lengths), device=device).unsqueeze(1), places
        self.width = min(-(-(max(self.lengths) + tokens) // self.BUCKET) * self.BUCKET, context)
        return places

    def extend(
        self, layer: int, keys: Float[Tensor, "b h n c"], values: Float[Tensor, "b h n c"]
    ) -> tuple[Float[Tensor, "b h m c"], Float[Tensor, "b h m c"]]:
        """Store new keys and values of one layer, each at its row's place; return all places that this pass reads."""
        rows, places = self._at
        for room, new in ((self.keys, keys), (self.values, values)):
            room[layer].transpose(1, 2)[rows, places] = new.transpose(1, 2)
        part = slice(None, len(self.lengths)), slice(None), slice(None, self.width)
        return self.keys[layer][part], self.values[layer][part]

    def advance(self, tokens: int) -> None:
        self.lengths = [length + tokens for length in self.lengths]

    def admit(self, keys: Float[Tensor, "l h m c"], values: Float[Tensor, "l h m c"]) -> int:
        """A new last row, by what all l layers hold of its m tokens; its number. ValueError where no slot is free."""
        row, length = len(self.lengths), keys.shape[2]
        if self.full:
            raise ValueError(f"all {row} slots are in use: drop a row first")
        self.keys[:, row, :, :length] = keys
        self.values[:, row, :, :length] = values
        self.lengths.append(length)
        return row

    def row(self, row: int) -> tuple[Float[Tensor, "l h m c"], Float[Tensor, "l h m c"]]:
        """Keys and values of the m tokens of a row in all l layers."""
        part = slice(None), row, slice(None), slice(None, self.lengths[row])
        return self.keys[part], self.values[part]

    def clear(self, row: int) -> None:
        """Forget what is not finite: even unseen it would spoil the row's next tokens."""
        self.keys[:, row] = 0
        self.values[:, row] = 0

    def drop(self, row: int) -> None:
        """A row leaves; the last one takes its place."""
        last = len(self.lengths) - 1
        length = self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        if row != last:
            self.keys[:, row, :, :length] = self.keys[:, last, :, :length]
            self.values[:, row, :, :length] = self.values[:, last, :, :length]


def _zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """On pages of 2 MiB where Linux has them: a step reads all rows, and waits for fewer look-ups of pages."""
    room = torch.empty(shape, dtype=dtype, device=device)
    if device.type == "cpu" and sys.platform == "linux":
        start = -(-room.data_ptr() // HUGE) * HUGE
        size = room.data_ptr() + room.nbytes - start
        if size > 0:  # advice alone: refused, it changes nothing
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), MADV_HUGEPAGE)
    return room.zero_()
