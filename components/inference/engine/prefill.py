"""Prompts, read a bounded piece at a time: what runs beside them waits no longer than for a piece.

A few are read together, since a pass over few tokens waits for the weights. Those that begin alike are not: the second
finds what the first has left (prefixes.py).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from components.attention.cache import SlotCache
from components.decoders.causal import CausalDecoder
from components.inference.engine.prefixes import BLOCK, Prefixes
from components.inference.engine.request import Request


class Prefill:
    """cache: as many rows as prompts may be read together."""

    def __init__(self, decoder: CausalDecoder, cache: SlotCache, prefixes: Prefixes) -> None:
        self.decoder, self.cache, self.prefixes = decoder, cache, prefixes
        self.requests: list[Request] = []  # each in the cache's row of the same number

    def takes(self, request: Request) -> bool:
        """Whether its prompt is to be read beside those that are."""
        begins = [each.prompt[:BLOCK] for each in self.requests if self.prefixes.budget]
        return not self.cache.full and request.prompt[:BLOCK] not in begins

    def begin(self, request: Request) -> None:
        known = self.prefixes.find(request.prompt)
        row = self.cache.admit(self.cache.keys[:, 0, :, :0], self.cache.values[:, 0, :, :0])
        self.requests.append(request)
        for number, (keys, values) in enumerate(known):
            part = slice(number * BLOCK, (number + 1) * BLOCK)
            self.cache.keys[:, row, :, part], self.cache.values[:, row, :, part] = keys, values
        request.stream.cached_tokens = self.cache.lengths[row] = len(known) * BLOCK

    def drop(self, row: int) -> None:
        """A request leaves; the last one gets its row."""
        self.cache.drop(row)
        self.requests[row] = self.requests[-1]
        self.requests.pop()

    def advance(self, tokens: int) -> tuple[int, dict[int, Float[Tensor, "1 vocabulary"] | None]]:
        """One pass of about so many tokens: how many it were, and, by row, the logits after each complete prompt.

        None in place of logits: the prompt's numbers are not finite.
        """
        done = self.cache.lengths
        left = [len(request.prompt) - length for request, length in zip(self.requests, done, strict=True)]
        room = self.cache.keys.shape[3] - max(done)
        width = min(max(tokens // len(left), 1), max(left), room)
        pieces = [request.prompt[start : start + width] for request, start in zip(self.requests, done, strict=True)]
        padded = [piece + piece[-1:] * (width - len(piece)) for piece in pieces]  # what follows is written over
        hidden = self.decoder.hidden(torch.tensor(padded, device=self.cache.keys.device), self.cache)
        self.cache.lengths = [length + len(piece) for length, piece in zip(done, pieces, strict=True)]
        after: dict[int, Tensor | None] = {}
        for row, finite in enumerate(hidden.isfinite().all(-1).all(-1).tolist()):
            if not finite:
                after[row] = None
            elif len(pieces[row]) == left[row]:
                after[row] = self.decoder.logits(hidden[row : row + 1, left[row] - 1])
        return width * len(left), after
