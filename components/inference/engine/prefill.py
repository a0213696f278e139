"""The prompt of one request, a bounded piece at a time: what runs beside it waits no longer than for a piece."""

import torch
from jaxtyping import Float
from torch import Tensor

from components.attention.cache import Cache
from components.decoders.causal import CausalDecoder
from components.inference.engine.prefixes import Prefixes
from components.inference.engine.request import Request


class Prefill:
    """cache: one row, whatever it holds; the prompt's keys and values are in it in the end."""

    def __init__(self, decoder: CausalDecoder, request: Request, cache: Cache, prefixes: Prefixes) -> None:
        self.decoder, self.request, self.cache = decoder, request, cache
        cache.length = 0
        request.stream.cached_tokens = prefixes.restore(request.prompt, cache)
        self.logits: Float[Tensor, "1 vocabulary"] | None = None  # of the token after the prompt, once it is known

    def advance(self, tokens: int) -> int:
        """Compute up to so many tokens; how many it were."""
        prompt, done = self.request.prompt, self.cache.length
        piece = torch.tensor([prompt[done : done + tokens]], device=self.cache.keys.device)
        hidden = self.decoder.hidden(piece, self.cache)
        if self.cache.length == len(prompt):
            self.logits = self.decoder.logits(hidden[:, -1])
        return piece.shape[1]
