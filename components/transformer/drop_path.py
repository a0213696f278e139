"""Stochastic depth (Huang et al. 2016, equation 2): a sequence skips a whole branch, more often in later blocks.

What is kept grows by 1 / (1 - rate), so that the expectation stays, and nothing is scaled when it is evaluated.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class DropPath(nn.Module):
    """rate: probability that a sequence skips the branch."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Float[Tensor, "b n d"], lengths: tuple[int, ...] | None = None) -> Float[Tensor, "b n d"]:
        """lengths: of packed sequences, each of which is kept or skipped by itself."""
        if not self.training or not self.rate:
            return branch
        sequences = branch.shape[0] if lengths is None else len(lengths)
        kept = torch.empty(sequences, device=branch.device).bernoulli_(1 - self.rate).div_(1 - self.rate)
        if lengths is None:
            return branch * kept.to(branch.dtype)[:, None, None]
        each = kept.repeat_interleave(torch.tensor(lengths, device=branch.device))
        return branch * each.to(branch.dtype)[None, :, None]


def rates(most: float, depth: int) -> list[float]:
    """Of each block: rises linearly from 0 to `most` (Huang et al. 2016, equation 4, counted from 0)."""
    return [most * block / max(depth - 1, 1) for block in range(depth)]
