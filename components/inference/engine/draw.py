"""A token for each row of a batch, each by its own parameters and its own chance.

A draw inverts the cumulative distribution at a number in [0, 1) that belongs to the request and to the token's place in
it. What else is in the batch has no part in it, and a token that was guessed right is the one that would have been
drawn: so speculation is exact for sampling as it is for greedy decoding.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from components.decoders.config import SamplingConfig
from components.decoders.sampling import distribution


def chances(seed: int, tokens: int) -> list[float]:
    """The numbers in [0, 1) of a request's tokens."""
    return torch.rand(tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()


def draw_rows(
    logits: Float[Tensor, "b vocabulary"], sampling: Sequence[SamplingConfig], chance: Sequence[float]
) -> Int[Tensor, " b"]:
    """One token a row; rows that share a configuration are drawn together."""
    kinds = set(sampling)
    if len(kinds) == 1:
        return _draw(logits, sampling[0], chance)
    tokens = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    for kind in kinds:
        rows = [row for row, each in enumerate(sampling) if each == kind]
        tokens[rows] = _draw(logits[rows], kind, [chance[row] for row in rows])
    return tokens


def _draw(logits: Tensor, sampling: SamplingConfig, chance: Sequence[float]) -> Tensor:
    if sampling.temperature == 0:
        return logits.max(-1).indices  # the first of equals, as argmax, and faster
    below = distribution(logits, sampling).cumsum(-1, dtype=torch.float64)
    targets = torch.tensor(chance, dtype=torch.float64, device=logits.device).unsqueeze(1) * below[:, -1:]
    return torch.searchsorted(below, targets, right=True).squeeze(1).clamp_(max=logits.shape[-1] - 1)
