"""The position-wise feed-forward network (Vaswani et al. 2017, equation 2) with GELU (Hendrycks & Gimpel 2016)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(width, hidden)
        self.project_out = nn.Linear(hidden, width)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.project_out(F.gelu(self.project_in(tokens)))
