"""What every encoder gives, whatever it read: tokens, one vector for the whole, and which tokens are real."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Encoded:
    tokens: Float[Tensor, "b n d"]  # after the last norm
    pooled: Float[Tensor, "b d"]  # one vector an item
    mask: Bool[Tensor, "b n"]  # True where a token is real


class Encoder(nn.Module):
    """A module whose call gives `Encoded`; heads and towers ask it for nothing but its width."""

    width: int  # features of a token and of the pooled vector


def mean_of_real(tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b d"]:
    """Mean over the real tokens of each item; zeros for an item without any."""
    weights = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)
