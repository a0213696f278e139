"""Keys and values of tokens that earlier requests began with, kept by blocks under a budget of bytes.

A tree of blocks of tokens, as in vLLM's automatic prefix caching (Kwon et al. 2023, section 4.3) and RadixAttention
(Zheng et al. 2024): a block hangs below the block before it, so that one path is one prefix. The least recently used
leaf goes first. The cache belongs to one set of weights: an engine makes its own.
"""

from collections import OrderedDict
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

BLOCK = 16  # tokens
Key = tuple[int, tuple[int, ...]]  # number of the block before (0: none), tokens of this one


class Prefixes:
    """budget: bytes of keys and values at the most; 0 keeps none."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.bytes = 0
        self.asked = 0  # tokens of all prompts so far
        self.found = 0  # of them, those that were here
        self._known: OrderedDict[Key, tuple[int, Tensor, Tensor]] = OrderedDict()  # least recently used first
        self._numbers = 0

    def find(self, prompt: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the longest known prefix, short of the last token, block by block."""
        before, path = 0, []
        for block in _blocks(prompt[:-1]):
            key = before, block
            if key not in self._known:
                break
            before = self._known[key][0]
            path.append(key)
        self._touch(path)
        self.asked += len(prompt)
        self.found += len(path) * BLOCK
        return [self._known[key][1:] for key in path]

    def keep(self, tokens: Sequence[int], keys: Float[Tensor, "l h m c"], values: Float[Tensor, "l h m c"]) -> None:
        """Remember tokens, whole blocks of them, by their keys and values in all l layers: the first of m."""
        size = 2 * keys[:, :, :BLOCK].numel() * keys.element_size()
        before, path = 0, []
        for index, block in enumerate(_blocks(tokens)[: self.budget // size]):
            key = before, block
            if key in self._known:
                self._known.move_to_end(key)
            else:
                while self.bytes + size > self.budget:  # the path itself is newest, and fits
                    self._known.popitem(last=False)
                    self.bytes -= size
                part = slice(index * BLOCK, (index + 1) * BLOCK)
                self._numbers += 1
                self._known[key] = self._numbers, keys[:, :, part].clone(), values[:, :, part].clone()
                self.bytes += size
            before = self._known[key][0]
            path.append(key)
        self._touch(path)

    def _touch(self, path: list[Key]) -> None:
        for key in reversed(path):  # a block is never older than those below it: the oldest one is a leaf
            self._known.move_to_end(key)


def _blocks(tokens: Sequence[int]) -> list[tuple[int, ...]]:
    """Whole blocks of tokens."""
    return [tuple(tokens[start : start + BLOCK]) for start in range(0, len(tokens) - BLOCK + 1, BLOCK)]
