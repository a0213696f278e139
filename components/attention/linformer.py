"""Linformer: keys and values projected along the length to `rank` of them (Wang et al. 2020, equation 7).

softmax(Q (E K)^T / sqrt(c)) (F V), with E and F learned. They are shared among the heads of a layer ("headwise
sharing", section 4) and, like the paper's, tied to places: a sequence of n tokens uses their first n columns. Padding
is zeroed before projecting, so that it reaches no query. Every projected key holds all tokens, which no mask can undo:
there is no causal form. The drawn entries have variance 1/context, so that a full sequence's projected keys keep the
scale of keys; the paper's theorem draws 1/rank, which would saturate the softmax of long sequences.
Letters: b batch, h heads, g heads of keys and values, n tokens, c features of a head.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from components.attention.shapes import check


class LinformerCore(nn.Module):
    """rank: keys that are left; context: the most tokens of a sequence."""

    def __init__(self, *, rank: int, context: int, causal: bool) -> None:
        super().__init__()
        if causal:
            raise ValueError(
                "linformer cannot be causal, for each projected key holds all tokens: choose local, block_sparse or "
                "performer"
            )
        if rank < 1 or context < 1:
            raise ValueError(f"rank is {rank} and context {context}: both must be at least 1")
        self.project_keys = nn.Parameter(torch.randn(rank, context) * context**-0.5)
        self.project_values = nn.Parameter(torch.randn(rank, context) * context**-0.5)

    def forward(
        self,
        queries: Float[Tensor, "b h n c"],
        keys: Float[Tensor, "b g m c"],
        values: Float[Tensor, "b g m c"],
        mask: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b h n c"]:
        """mask: True where a key is real."""
        check(queries, keys, values, mask)
        length, context = keys.shape[2], self.project_keys.shape[1]
        if length > context:
            raise ValueError(f"{length} tokens do not fit a context of {context}: shorten the input or raise `context`")
        if mask is not None:
            padding = ~mask[:, None, :, None]
            keys, values = keys.masked_fill(padding, 0.0), values.masked_fill(padding, 0.0)
        return F.scaled_dot_product_attention(
            queries,
            torch.matmul(self.project_keys[:, :length], keys),
            torch.matmul(self.project_values[:, :length], values),
            enable_gqa=keys.shape[1] != queries.shape[1],
        )
