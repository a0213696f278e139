"""How a token knows its place: added to tokens, turned into queries and keys, or added to the scores of attention.

Every kind offers the same three hooks, so that a stack holds one module and asks no questions: `embed` before the first
block, `rotation` and `bias` once a forward pass for all blocks. What a kind does not do, its hook leaves as it is.
Places are a slice; for packed sequences, a vector that begins anew with each; for rows of own lengths, a row each.
Letters: b batch, n tokens, m tokens attended to, d width, h heads, c features of a head.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from components.attention.view import Rotation

Places = slice | Int[Tensor, " n"] | Int[Tensor, "b n"]
BUCKETS = 32  # of T5's relative distances
FARTHEST = 128  # tokens: from here on T5's distances share a bucket


@dataclass(frozen=True)
class Place:
    """Where positions are put to use."""

    context: int  # most tokens of a sequence
    width: int  # features of a token
    heads: int
    scale: float  # standard deviation of the tokens that positions are added to
    features: int = 0  # of a head; 0: width / heads
    causal: bool = False  # no token sees a later one
    base: float = 10000.0  # of rotary angles: the longest wavelength, in tokens / 2 pi


class Positions(nn.Module):
    """Base of all kinds: knows how many positions there are."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.context = place.context

    def span(self, start: int, length: int) -> slice:
        """Places of `length` tokens after `start` earlier ones; ValueError past the context."""
        if start + length > self.context:
            raise ValueError(
                f"{start + length} tokens do not fit a context of {self.context}: shorten the input or raise `context`"
            )
        return slice(start, start + length)

    def embed(self, tokens: Float[Tensor, "b n d"], places: Places) -> Float[Tensor, "b n d"]:
        return tokens

    def rotation(self, places: Places) -> Rotation | None:
        return None

    def bias(self, queries: int, keys: int) -> Float[Tensor, "h n m"] | None:
        """What is added to the scores of the last `queries` of `keys` tokens."""
        return None

    def bias_at(self, places: Int[Tensor, "b n"], keys: int) -> Float[Tensor, "b h n m"] | None:
        """What is added to the scores of queries at these places and the first `keys` tokens of their rows."""
        return None


class Absolute(Positions):
    """A vector a position, added to the tokens."""

    table: Tensor

    def embed(self, tokens: Float[Tensor, "b n d"], places: Places) -> Float[Tensor, "b n d"]:
        return tokens + self.table[places]


class Sinusoidal(Absolute):
    """Vaswani et al. 2017, section 3.5: P[p, 2i] = sin(p / 10000^(2i/d)), P[p, 2i+1] = cos(the same); times `scale`."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        angles = _angles(place.context, place.width, 10000.0)
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1) * place.scale
        self.register_buffer("table", table.float(), persistent=False)


class Learned(Absolute):
    """A free vector a position (Gehring et al. 2017; BERT, GPT-2, ViT), drawn with the standard deviation `scale`."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.table = nn.Parameter(torch.randn(place.context, place.width) * place.scale)


class Rotary(Positions):
    """Su et al. 2021, equation 34: feature pairs of queries and keys turn by an angle that grows with the position.

    The product of a query and a key then depends on their distance alone. Pairs are (i, i + c/2), as in GPT-NeoX and
    Llama, so that the two halves stay contiguous.
    """

    cosines: Tensor
    sines: Tensor

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        angles = _angles(place.context, place.features or place.width // place.heads, place.base)
        cosines, sines = angles.cos().float(), angles.sin().float()
        self.register_buffer("cosines", torch.cat([cosines, cosines], dim=-1), persistent=False)
        self.register_buffer("sines", torch.cat([-sines, sines], dim=-1), persistent=False)

    def rotation(self, places: Places) -> Rotation:
        return self.cosines[places], self.sines[places]


class Alibi(Positions):
    """Press et al. 2022, section 3: scores fall by slope * distance, a fixed slope a head; nothing is learned.

    Slopes are 2^(-8/h), 2^(-16/h), ... for a power of two; for other head counts those of the next lower power, then
    every second one of twice that power, as in the authors' code. On both sides of a token where it may look ahead.
    """

    slopes: Tensor

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        whole = 1 << (place.heads.bit_length() - 1)
        slopes = _geometric(whole) + _geometric(2 * whole)[::2][: place.heads - whole]
        self.register_buffer("slopes", torch.tensor(slopes), persistent=False)

    def bias(self, queries: int, keys: int) -> Float[Tensor, "h n m"]:
        return -self.slopes[:, None, None] * _distances(queries, keys, self.slopes.device).abs()

    def bias_at(self, places: Int[Tensor, "b n"], keys: int) -> Float[Tensor, "b h n m"]:
        return -self.slopes[:, None, None] * _distances_from(places, keys).abs().unsqueeze(1)


class RelativeBuckets(Positions):
    """T5's relative bias (Raffel et al. 2020, section 2.1): a learned number a head and bucket of distances.

    Half of the buckets hold one distance each, the other half grow logarithmically up to 128 tokens; where a token may
    look ahead, each direction has half of them.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.causal = place.causal
        self.table = nn.Embedding(BUCKETS, place.heads)
        nn.init.zeros_(self.table.weight)

    def bias(self, queries: int, keys: int) -> Float[Tensor, "h n m"]:
        buckets = self.buckets(_distances(queries, keys, self.table.weight.device))
        return self.table(buckets).permute(2, 0, 1)

    def bias_at(self, places: Int[Tensor, "b n"], keys: int) -> Float[Tensor, "b h n m"]:
        return self.table(self.buckets(_distances_from(places, keys))).permute(0, 3, 1, 2)

    def buckets(self, distances: Int[Tensor, "*b n m"]) -> Int[Tensor, "*b n m"]:
        """distances: key's place less query's."""
        if self.causal:
            side, distances, count = torch.zeros_like(distances), (-distances).clamp(min=0), BUCKETS
        else:
            count = BUCKETS // 2
            side, distances = (distances > 0) * count, distances.abs()
        exact = count // 2
        growth = (distances.clamp(min=1) / exact).log() / math.log(FARTHEST / exact)
        far = (exact + (growth * (count - exact)).long()).clamp(max=count - 1)
        return side + torch.where(distances < exact, distances, far)


KINDS: dict[str, type[Positions]] = {
    "none": Positions,
    "sinusoidal": Sinusoidal,
    "learned": Learned,
    "rotary": Rotary,
    "alibi": Alibi,
    "relative": RelativeBuckets,
}


def positions(name: str, place: Place) -> Positions:
    """The positions named `name`; ValueError with the known names for any other."""
    if name not in KINDS:
        raise ValueError(f"positions {name!r} are unknown: choose one of {', '.join(KINDS)}")
    return KINDS[name](place)


def rotate(heads: Float[Tensor, "b n h c"], rotation: Rotation) -> Float[Tensor, "b n h c"]:
    """Turn each pair (i, i + c/2) of every head by its position's angle."""
    cosines, sines = (part.to(heads.dtype).unsqueeze(-2) for part in rotation)
    if torch.compiler.is_compiling():  # Dynamo loses the gradient of _Rotation without a word, and fuses this by itself
        swapped = torch.cat(heads.chunk(2, -1)[::-1], -1)
        return heads * cosines + swapped * sines
    if not torch.is_grad_enabled():
        return _turn(heads, cosines, sines)
    return _Rotation.apply(heads, cosines, sines)  # type: ignore[return-value]


class _Rotation(torch.autograd.Function):
    """Written out, since its gradient is the rotation back: half of the work that autograd would do piece by piece."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        return _turn(heads, cosines, sines)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        cosines, sines = ctx.saved_tensors
        return _turn(gradient, cosines, -sines), None, None


def _turn(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    return heads.roll(heads.shape[-1] // 2, -1).mul_(sines).addcmul_(heads, cosines)


def _angles(context: int, features: int, base: float) -> Float[Tensor, "context half"]:
    frequencies = base ** (-torch.arange(0, features, 2, dtype=torch.float64) / features)
    return torch.outer(torch.arange(context, dtype=torch.float64), frequencies)


def _geometric(heads: int) -> list[float]:
    return [2.0 ** (-8.0 * (head + 1) / heads) for head in range(heads)]


def _distances(queries: int, keys: int, device: torch.device) -> Int[Tensor, "n m"]:
    """Key's place less query's, for the last `queries` of `keys` places."""
    places = torch.arange(keys, device=device)
    return places - places[keys - queries :, None]


def _distances_from(places: Int[Tensor, "b n"], keys: int) -> Int[Tensor, "b n m"]:
    """The first `keys` places less each query's."""
    return torch.arange(keys, device=places.device) - places.unsqueeze(-1)
