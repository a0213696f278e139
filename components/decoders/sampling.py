"""Sampling from a causal decoder: one pass over the prompts, then a cached step a token.

All prompts of a batch have one length: group others by length. (Left padding would shift positions and need a mask in
every step, for a case that grouping covers.) A row that has ended is filled with the end token until all have.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from components.decoders.causal import CausalDecoder
from components.decoders.config import SamplingConfig


@torch.no_grad()
def generate(
    decoder: CausalDecoder,
    prompts: Int[Tensor, "b n"],
    tokens: int,
    sampling: SamplingConfig,
    generator: torch.Generator,
    end: int | None = None,
) -> Int[Tensor, "b m"]:
    """Up to `tokens` new tokens a row, without the prompt; stops early when every row has drawn `end`.

    generator: on the decoder's device; the same state gives the same tokens. ValueError when prompt and new tokens
    exceed the context. Switch the decoder to eval() first.
    """
    batch, length = prompts.shape
    if length + tokens > decoder.context:
        raise ValueError(
            f"{length} prompt and {tokens} new tokens exceed the context of {decoder.context}: "
            "shorten the prompt or ask for fewer"
        )
    cache = decoder.cache(batch)
    ended = torch.zeros(batch, dtype=torch.bool, device=prompts.device)
    drawn: list[Tensor] = []
    step = prompts
    for _ in range(tokens):
        token = draw(decoder.logits(decoder.hidden(step, cache)[:, -1]), sampling, generator)
        if end is not None:
            token = token.masked_fill(ended, end)
            ended |= token == end
        drawn.append(token)
        if end is not None and ended.all():
            break
        step = token.unsqueeze(1)
    return torch.stack(drawn, dim=1)


def draw(
    logits: Float[Tensor, "b vocabulary"], sampling: SamplingConfig, generator: torch.Generator
) -> Int[Tensor, " b"]:
    """One token a row from `distribution`, or the likeliest at temperature 0."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(distribution(logits, sampling), 1, generator=generator).squeeze(1)


def distribution(logits: Float[Tensor, "b vocabulary"], sampling: SamplingConfig) -> Float[Tensor, "b vocabulary"]:
    """Probabilities after temperature, then top-k, then top-p (Holtzman et al. 2020, eq. 2). Temperature above 0."""
    logits = logits.float() / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    probabilities = logits.softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered  # share of all likelier tokens: the one that crosses top_p still counts
        kept = ordered.masked_fill(before >= sampling.top_p, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, kept / kept.sum(-1, keepdim=True))
    return probabilities
