"""Multi-head softmax attention over torch's SDPA: softmax(Q K^T / sqrt(c)) V (Vaswani et al. 2017, equation 1).

One matrix product makes queries, keys and values. A mask is built only where SDPA's own causal path does not do:
that path skips half of the work, and a mask is read for every score. There is no dropout on attention weights: on a
CPU it would leave SDPA's fast kernel.
Letters: b batch, n tokens, m tokens attended to, d width, h heads, c features of a head.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from components.attention.cache import Cache
from components.attention.positions import Rotation, rotate


class SoftmaxAttention(nn.Module):
    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide by heads {heads}: choose a multiple of heads")
        self.heads = heads
        self.causal = causal
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)

    def forward(
        self,
        tokens: Float[Tensor, "b n d"],
        mask: Bool[Tensor, "b m"] | None = None,
        rotation: Rotation | None = None,
        cache: Cache | None = None,
        layer: int = 0,
    ) -> Float[Tensor, "b n d"]:
        """Each token's mixture of the tokens it may see.

        mask: True where a key is real; None when all are. A row needs at least one real key.
        rotation: angles of these tokens' positions (Rotary.rotation).
        cache, layer: earlier tokens' keys and values, which these tokens see too and join.
        """
        batch, length, width = tokens.shape
        queries, keys, values = self._split(self.project_in(tokens), rotation)
        if cache is not None:
            keys, values = cache.extend(layer, keys, values)
        allowed = self._allowed(mask, length, keys.shape[2], tokens.device)
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=allowed, is_causal=self.causal and allowed is None and length > 1
        )
        return self.project_out(mixed.transpose(1, 2).reshape(batch, length, width))

    def _split(self, projected: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        parts = projected.unflatten(-1, (3, self.heads, -1))
        if rotation is None:
            queries, keys, values = parts.unbind(2)
        else:  # queries and keys turn together
            queries, keys = rotate(parts[:, :, :2].flatten(2, 3), rotation).chunk(2, dim=2)
            values = parts[:, :, 2]
        return queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)

    def _allowed(self, mask: Tensor | None, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """The mask for SDPA, [b or 1, 1, queries or 1, keys]; None where it needs none."""
        padding = None if mask is None else mask[:, None, None, :]
        if not self.causal or queries == 1 or (padding is None and keys == queries):
            return padding
        earlier = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)[None, None]
        return earlier if padding is None else earlier & padding
