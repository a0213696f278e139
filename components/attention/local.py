"""Sliding-window attention: exact softmax over the neighbours (Beltagy et al. 2020, section 3.1; Jiang et al. 2023).

Causal, token q sees the `window` tokens q - window < k <= q, itself counted, as in Mistral; otherwise `window` to each
side, |q - k| <= window. Stacked layers see further: depth times the window. No dilation and no global tokens:
block_sparse.py has the latter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from components.attention.blockwise import BlockwiseCore, Pattern, Rule


class LocalCore(BlockwiseCore):
    """window: tokens seen, to each side or (causal) before, itself counted."""

    def __init__(self, *, window: int, causal: bool) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"window is {window}: it must be at least 1 token")
        self.window = window
        self.causal = causal

    def pattern(self, length: int) -> "Window":
        return Window(length, self.window, self.causal)


@dataclass(frozen=True)
class Window(Pattern):
    window: int
    causal: bool

    @property
    def tile(self) -> int:
        """A quarter of the window: keys beyond it, which a tile computes in vain, stay few. Least at 64, measured."""
        return min(max(self.window // 4, 64), 256)

    def keys(self, start: int, stop: int) -> Sequence[slice]:
        if self.causal:
            return [slice(max(start - self.window + 1, 0), stop)]
        return [slice(max(start - self.window, 0), min(stop + self.window, self.length))]

    def rule(self, device: torch.device) -> Rule:
        window = self.window
        if self.causal:
            return lambda query, key: (query >= key) & (query - key < window)
        return lambda query, key: (query - key <= window) & (key - query <= window)
