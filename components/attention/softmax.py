"""Softmax attention over torch's SDPA: softmax(Q K^T / sqrt(c)) V (Vaswani et al. 2017, equation 1).

Flash kernels do it where the machine has them, and torch chooses. A mask is built only where SDPA's own causal path
does not do: that path skips half of the work, and a mask is read for every score. Dropout on the weights leaves the
fast kernel on a CPU, and short sequences in bf16 leave its backward pass (bf16.py).
Letters: b batch, h heads, g heads of keys and values, n queries, m keys, c features of a head.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from components.attention.bf16 import attend_bf16, serves


class SoftmaxCore(nn.Module):
    """dropout: share of the weights zeroed while training."""

    def __init__(self, *, causal: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.causal = causal
        self.dropout = dropout

    def forward(
        self,
        queries: Float[Tensor, "b h n c"],
        keys: Float[Tensor, "b g m c"],
        values: Float[Tensor, "b g m c"],
        mask: Bool[Tensor, "b m"] | None = None,
        bias: Float[Tensor, "*rows #h n m"] | None = None,
    ) -> Float[Tensor, "b h n c"]:
        """The queries are the last n of the m tokens. mask: True where a key is real; a row needs at least one.

        A bias of four dimensions is of each row, and -inf where a query sees no key: queries may then be anywhere.
        """
        length = queries.shape[2]
        plain = mask is None and bias is None and keys.shape[2] == length  # what SDPA's causal path can do
        told = bias is not None and bias.ndim == 4
        earlier = self.causal and length > 1 and not plain and not told
        allowed = _allowed(mask, _earlier(length, keys.shape[2], queries.device) if earlier else None)
        if bias is not None:
            bias = bias.to(queries.dtype)
            bias = bias[None] if bias.ndim == 3 else bias
            allowed = bias if allowed is None else bias.masked_fill(~allowed, -torch.inf)
        is_dropped = self.training and self.dropout > 0
        if plain and not is_dropped and serves(queries, keys, values):
            return attend_bf16(queries, keys, values, self.causal)[0]
        is_causal = False
        if self.causal and plain and length > 1:  # a branch: where torch.compile takes any length, SDPA wants no symbol
            is_causal = True
        return F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=allowed,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=is_causal,
            enable_gqa=keys.shape[1] != queries.shape[1],
        )


def _earlier(queries: int, keys: int, device: torch.device) -> Bool[Tensor, "1 1 n m"]:
    """Which keys come no later than each of the last `queries` places."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)[None, None]


def _allowed(mask: Tensor | None, earlier: Tensor | None) -> Tensor | None:
    """Both in one mask for SDPA, [b or 1, 1, n or 1, m]; None where it needs none."""
    padding = None if mask is None else mask[:, None, None, :]
    if earlier is None or padding is None:
        return padding if earlier is None else earlier
    return earlier & padding
