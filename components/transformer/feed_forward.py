"""The position-wise feed-forward network (Vaswani et al. 2017, equation 2), plain or gated.

SwiGLU (Shazeer 2020, equation 6) multiplies a gate silu(xW) with xV; both come out of one product. At equal parameters
its `expansion` is two thirds of the plain one's.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from components.transformer.gelu import gelu


def quick_gelu(features: Tensor) -> Tensor:
    """x sigmoid(1.702 x): what OpenAI's CLIP was trained with (Hendrycks & Gimpel 2016, section 2)."""
    return features * torch.sigmoid(1.702 * features)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "relu": F.relu,
}


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int, activation: str = "gelu", bias: bool = True) -> None:
        super().__init__()
        self.gated = activation == "swiglu"
        self.activation = F.silu if self.gated else ACTIVATIONS[activation]
        self.project_in = nn.Linear(width, 2 * hidden if self.gated else hidden, bias=bias)
        self.project_out = nn.Linear(hidden, width, bias=bias)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        hidden = self.project_in(tokens)
        if self.gated:
            gate, hidden = hidden.chunk(2, dim=-1)
            return self.project_out(self.activation(gate) * hidden)
        return self.project_out(self.activation(hidden))
