"""Requests that decode together: one pass gives each a token, or several where guesses come true.

Speculative decoding (Leviathan et al. 2023) with guesses that are certain, not drawn: a pass computes the next token
after each guessed one, and the guesses are kept as far as they are what is drawn. Lengths in the cache are set back to
what was kept; what stands behind them is written over later.
"""

import time

import torch
from jaxtyping import Float
from torch import Tensor

from components.attention.cache import SlotCache
from components.decoders.causal import CausalDecoder
from components.inference.engine.draft import Lookup, Payoff
from components.inference.engine.draw import draw_rows
from components.inference.engine.request import Request


class Batch:
    """guesses: tokens guessed a request and pass at the most; 0 never guesses."""

    def __init__(self, decoder: CausalDecoder, cache: SlotCache, guesses: int) -> None:
        self.decoder, self.cache = decoder, cache
        self.requests: list[Request] = []  # each in the cache's row of the same number
        self.guesses = guesses
        self.guessed = self.confirmed = 0  # tokens so far
        self._payoff = Payoff()

    @property
    def full(self) -> bool:
        return self.cache.full

    def admit(self, request: Request, keys: Float[Tensor, "l h m c"], values: Float[Tensor, "l h m c"]) -> None:
        """keys, values: of its prompt. It has drawn its first token."""
        self.cache.admit(keys, values)
        if self.guesses:
            request.lookup = Lookup(request.prompt + request.drawn)
        self.requests.append(request)

    def drop(self, row: int) -> None:
        """A request leaves; the last one gets its row."""
        self.cache.drop(row)
        self.requests[row] = self.requests[-1]
        self.requests.pop()

    def step(self) -> list[list[int]]:
        """The next tokens of each request, one at least; none where its numbers are no longer finite."""
        started, rows = time.perf_counter(), len(self.requests)
        guesses = self._guess()
        width = 1 + max(map(len, guesses))
        lengths = self.cache.lengths
        drawn, finite = self._draw(guesses, width)
        kept = [
            tokens[: 1 + _agreed(tokens, guess)] if sound else []
            for tokens, guess, sound in zip(drawn, guesses, finite, strict=True)
        ]
        self.cache.lengths = [length + len(tokens) for length, tokens in zip(lengths, kept, strict=True)]
        total = sum(map(len, kept))
        self.guessed += sum(map(len, guesses))
        self.confirmed += max(total - rows, 0)
        self._payoff.measured(rows, width > 1, total, time.perf_counter() - started)
        return kept

    def _guess(self) -> list[list[int]]:
        """Guesses of each request, none where they do not pay or do not fit."""
        room = self.cache.keys.shape[3] - 1 - max(self.cache.lengths)
        if not self.guesses or not room or not self._payoff.pays(len(self.requests)):
            return [[] for _ in self.requests]
        most = min(self.guesses, room)
        return [
            request.lookup.guess(min(most, request.left - 1)) if request.lookup is not None else []
            for request in self.requests
        ]

    def _draw(self, guesses: list[list[int]], width: int) -> tuple[list[list[int]], list[bool]]:
        """What follows the last token of each row, and each guess if it is right; whether its numbers are finite."""
        rows = [
            [request.drawn[-1], *guess, *request.drawn[-1:] * (width - 1 - len(guess))]
            for request, guess in zip(self.requests, guesses, strict=True)
        ]
        hidden = self.decoder.hidden(torch.tensor(rows, device=self.cache.keys.device), self.cache)
        logits = self.decoder.logits(hidden).flatten(0, 1)
        sampling = [request.sampling for request in self.requests for _ in range(width)]
        chance = [
            request.chances[min(len(request.drawn) + place, len(request.chances) - 1)]
            for request in self.requests
            for place in range(width)
        ]
        drawn = draw_rows(logits, sampling, chance)
        return drawn.unflatten(0, (-1, width)).tolist(), hidden.isfinite().all(-1).all(-1).tolist()


def _agreed(drawn: list[int], guess: list[int]) -> int:
    """How many of the guesses are what was drawn, from the first on."""
    for place, token in enumerate(guess):
        if drawn[place] != token:
            return place
    return len(guess)
