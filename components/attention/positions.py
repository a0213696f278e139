"""How a token knows its place: added to the tokens (sinusoidal, learned), or turned into queries and keys (rotary).

Every kind offers the same two hooks, so that a stack holds one module and asks no questions: `embed` before the first
block, `rotation` once a forward pass for all blocks. What a kind does not do, its hook leaves as it is.
Letters: b batch, n tokens, d width, h heads, c features of a head.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

Rotation = tuple[Float[Tensor, "n half"], Float[Tensor, "n half"]]  # cosines and sines


@dataclass(frozen=True)
class Place:
    """Where positions are put to use."""

    context: int  # most tokens of a sequence
    width: int  # features of a token
    heads: int
    scale: float  # standard deviation of the tokens that positions are added to


class Positions(nn.Module):
    """Base of all kinds: knows how many positions there are."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.context = place.context

    def span(self, start: int, length: int) -> slice:
        """Positions of `length` tokens after `start` earlier ones; ValueError past the context."""
        if start + length > self.context:
            raise ValueError(
                f"{start + length} tokens do not fit a context of {self.context}: shorten the input or raise `context`"
            )
        return slice(start, start + length)

    def embed(self, tokens: Float[Tensor, "b n d"], start: int) -> Float[Tensor, "b n d"]:
        self.span(start, tokens.shape[1])
        return tokens

    def rotation(self, length: int, start: int) -> Rotation | None:
        return None


class Sinusoidal(Positions):
    """Vaswani et al. 2017, section 3.5: P[p, 2i] = sin(p / 10000^(2i/d)), P[p, 2i+1] = cos(the same); times `scale`."""

    table: Tensor

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        angles = _angles(place.context, place.width)
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1) * place.scale
        self.register_buffer("table", table.float(), persistent=False)

    def embed(self, tokens: Float[Tensor, "b n d"], start: int) -> Float[Tensor, "b n d"]:
        return tokens + self.table[self.span(start, tokens.shape[1])]


class Learned(Positions):
    """A free vector a position (Gehring et al. 2017; BERT, GPT-2, ViT), drawn with the standard deviation `scale`."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.table = nn.Parameter(torch.randn(place.context, place.width) * place.scale)

    def embed(self, tokens: Float[Tensor, "b n d"], start: int) -> Float[Tensor, "b n d"]:
        return tokens + self.table[self.span(start, tokens.shape[1])]


class Rotary(Positions):
    """Su et al. 2021, equation 34: feature pairs of queries and keys turn by an angle that grows with the position.

    The product of a query and a key then depends on their distance alone. Pairs are (i, i + c/2), as in GPT-NeoX and
    Llama, so that the two halves stay contiguous.
    """

    cosines: Tensor
    sines: Tensor

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        angles = _angles(place.context, place.width // place.heads)
        self.register_buffer("cosines", angles.cos().float(), persistent=False)
        self.register_buffer("sines", angles.sin().float(), persistent=False)

    def rotation(self, length: int, start: int) -> Rotation:
        span = self.span(start, length)
        return self.cosines[span], self.sines[span]


KINDS: dict[str, type[Positions]] = {
    "sinusoidal": Sinusoidal,
    "learned": Learned,
    "rotary": Rotary,
}


def positions(name: str, place: Place) -> Positions:
    """The positions named `name`; ValueError with the known names for any other."""
    if name not in KINDS:
        raise ValueError(f"positions {name!r} are unknown: choose one of {', '.join(KINDS)}")
    return KINDS[name](place)


def rotate(heads: Float[Tensor, "b n h c"], rotation: Rotation) -> Float[Tensor, "b n h c"]:
    """Turn each pair (i, i + c/2) of every head by its position's angle."""
    cosines, sines = (part.to(heads.dtype)[:, None, :] for part in rotation)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


def _angles(context: int, features: int) -> Float[Tensor, "context half"]:
    frequencies = 10000.0 ** (-torch.arange(0, features, 2, dtype=torch.float64) / features)
    return torch.outer(torch.arange(context, dtype=torch.float64), frequencies)
