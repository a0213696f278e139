"""Sliding-window attention: exact softmax over the neighbours (Beltagy et al. 2020, section 3.1; Jiang et al. 2023).

Causal, token q sees the `window` tokens q - window < k <= q, itself counted, as in Mistral; otherwise `window` to each
side, |q - k| <= window. Stacked layers see further: depth times the window. No dilation and no global tokens:
block_sparse.py has the latter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from components.attention.blockwise import BlockwiseCore, Pattern, Rule


class LocalCore(BlockwiseCore):
    """window: tokens seen, to each side or (causal) before, itself counted."""

    def __init__(self, *, window: int, causal: bool) -> None:
        super().__init__()
        if window < 1:
            raise ValueError(f"window is {window}: it must be at least 1 token")
        self.window = window
        self.causal = causal

    def forward(
        self,
        queries: Float[Tensor, "b h n c"],
        keys: Float[Tensor, "b g m c"],
        values: Float[Tensor, "b g m c"],
        mask: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b h n c"]:
        """mask: True where a key is real.

        Causal, the n queries may follow earlier tokens, whose keys a cache kept: they look back no more than a window.
        """
        length, earlier = queries.shape[2], keys.shape[2] - queries.shape[2]
        if not self.causal or earlier <= 0:
            return super().forward(queries, keys, values, mask)
        first = max(earlier - self.window + 1, 0)
        places = torch.arange(first, keys.shape[2], device=keys.device)
        sees = self.pattern(keys.shape[2]).rule(keys.device)(places[-length:, None], places)[None, None]
        if mask is not None:
            sees = sees & mask[:, None, None, first:]
        grouped = keys.shape[1] != queries.shape[1]
        near = keys[:, :, first:], values[:, :, first:]
        return F.scaled_dot_product_attention(queries, *near, attn_mask=sees, enable_gqa=grouped)

    def pattern(self, length: int) -> "Window":
        return Window(length, self.window, self.causal)


@dataclass(frozen=True)
class Window(Pattern):
    """LocalCore's window in tokens, for one length (Beltagy et al. 2020, section 3.1)."""

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
