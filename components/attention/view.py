"""What the tokens of one pass may see of each other: made once by the stack, and the same for every block."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from components.attention.cache import Cache, SlotCache

# cosines and sines for all features of a head; the sines of its first half are negative (attention/positions.py)
Rotation = tuple[Float[Tensor, "*rows n c"], Float[Tensor, "*rows n c"]]


@dataclass(frozen=True)
class View:
    """Letters: b batch, n tokens, m tokens attended to, h heads."""

    mask: Bool[Tensor, "b m"] | None = None  # True where a key is real; None when all are
    rotation: Rotation | None = None  # angles of these tokens' positions
    bias: Float[Tensor, "*rows h n m"] | None = None  # added to the scores; of own rows, -inf where none is seen
    lengths: tuple[int, ...] | None = None  # packed: the one row holds sequences of so many tokens, one after another
    cache: Cache | SlotCache | None = None  # keys and values of earlier tokens, which these tokens see too and join
