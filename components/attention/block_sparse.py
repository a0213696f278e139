"""Block-sparse attention: window, global and random blocks (BigBird, Zaheer et al. 2020, section 2 and appendix D).

A sequence is cut into blocks, the last of which may be short. A block sees its neighbours in the window; the first
`globals` blocks, which see all in turn; and `random` blocks more, drawn once from the seed. Causal, the window lies
before the block, only earlier blocks are seen or drawn, and the block itself by its lower triangle; a block's draw then
does not depend on how many follow, so that a prefix gives what the whole gives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool

from components.attention.blockwise import BlockwiseCore, Pattern, Rule


class BlockSparseCore(BlockwiseCore):
    """block: tokens; window (itself counted, odd unless causal), globals, random: blocks; seed: of the random ones."""

    def __init__(
        self, *, block: int = 64, window: int = 3, globals: int = 1, random: int = 2, seed: int = 0, causal: bool
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("block", block, 1),
            ("window", window, 1),
            ("globals", globals, 0),
            ("random", random, 0),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}: it must be at least {least}")
        if not causal and window % 2 == 0:
            raise ValueError(f"window is {window} blocks, itself counted: it must be odd, with as many on each side")
        self.sizes = block, window, globals, random, seed, causal

    def pattern(self, length: int) -> "Blocks":
        return Blocks(length, *self.sizes)


@dataclass(frozen=True)
class Blocks(Pattern):
    """BlockSparseCore's arguments for one length: `block` in tokens, all counts in blocks."""

    block: int
    window: int
    globals: int
    random: int
    seed: int
    causal: bool

    @property
    def tile(self) -> int:
        return self.block

    def keys(self, start: int, stop: int) -> Sequence[slice]:
        seen = self._seen()[start // self.block : -(-stop // self.block)].any(0)
        edges = np.flatnonzero(np.diff(seen, prepend=False, append=False)).reshape(-1, 2) * self.block  # runs of blocks
        last = stop if self.causal else self.length
        return [slice(int(first), min(int(end), last)) for first, end in edges if first < last]

    def rule(self, device: torch.device) -> Rule:
        seen = torch.from_numpy(self._seen()).to(device)
        block = self.block
        if self.causal:
            return lambda query, key: seen[query // block, key // block] & (query >= key)
        return lambda query, key: seen[query // block, key // block]

    def _seen(self) -> Bool[np.ndarray, "rows columns"]:
        count = -(-self.length // self.block)
        return seen_blocks(count, self.window, self.globals, self.random, self.seed, self.causal)


@lru_cache(maxsize=64)
def seen_blocks(
    count: int, window: int, globals: int, random: int, seed: int, causal: bool
) -> Bool[np.ndarray, "rows columns"]:
    """Which blocks (columns) each of `count` blocks (rows) sees."""
    rows, columns = np.arange(count)[:, None], np.arange(count)
    seen = rows - columns < window if causal else abs(rows - columns) <= window // 2
    seen[:globals] = True
    seen[:, :globals] = True
    if causal:
        seen &= columns <= rows
    for row in range(globals, count):
        draw = np.random.default_rng([seed, row] if causal else [seed, row, count])
        unseen = np.flatnonzero(~seen[row, : row if causal else count])
        seen[row, draw.permutation(unseen)[:random]] = True
    return seen
