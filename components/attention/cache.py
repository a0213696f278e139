"""Keys and values of the tokens seen so far, in room set aside once: a step writes in place and reads a view."""

import torch
from jaxtyping import Float
from torch import Tensor


class Cache:
    """Room for `context` tokens of every layer.

    The stack reads `length` (tokens stored), lets each attention `extend` its own layer, and calls `advance` once
    all layers have.
    """

    def __init__(
        self, layers: int, batch: int, heads: int, context: int, features: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        room = (layers, batch, heads, context, features)
        self.keys = torch.empty(room, dtype=dtype, device=device)
        self.values = torch.empty(room, dtype=dtype, device=device)
        self.length = 0

    def extend(
        self, layer: int, keys: Float[Tensor, "b h n c"], values: Float[Tensor, "b h n c"]
    ) -> tuple[Float[Tensor, "b h m c"], Float[Tensor, "b h m c"]]:
        """Store new keys and values of one layer; return all m of it so far, the new ones last."""
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, tokens: int) -> None:
        self.length += tokens
