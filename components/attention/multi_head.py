"""Multi-head attention: projections around a core that mixes heads (Vaswani et al. 2017, section 3.2.2).

One matrix product makes queries, keys and values; fewer heads of keys and values than of queries share them in groups
(Ainslie et al. 2023). The core decides who sees whom and at what cost: softmax, local, block-sparse, Linformer,
Performer. Packed sequences go through it one by one, so that no core knows of them and none computes on padding.
Letters: b batch, n tokens, d width, h heads, g heads of keys and values, c features of a head.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from components.attention.block_sparse import BlockSparseCore
from components.attention.config import Attention, BlockSparse, Linformer, Local, Performer, Softmax
from components.attention.linformer import LinformerCore
from components.attention.local import LocalCore
from components.attention.performer import PerformerCore
from components.attention.positions import rotate
from components.attention.softmax import SoftmaxCore
from components.attention.view import Rotation, View


class MultiHeadAttention(nn.Module):
    """layer: this attention's place in the cache. bias: "all" projections, "qkv" (Qwen2), or "none" (Llama).

    head_norm: an RMSNorm over each head's queries and keys, before they turn (Qwen3; Dehghani et al. 2023, section 2).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        core: nn.Module,
        *,
        key_value_heads: int | None = None,
        features: int | None = None,
        bias: str = "all",
        head_norm: float | None = None,
        layer: int = 0,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.key_value_heads = key_value_heads or heads
        if features is None and width % heads:
            raise ValueError(f"width {width} does not divide by heads {heads}: choose a multiple of heads")
        if heads % self.key_value_heads:
            raise ValueError(
                f"heads {heads} do not divide by key_value_heads {self.key_value_heads}: each group needs as many"
            )
        features = features or width // heads
        self.layer = layer
        self.core = core
        self.project_in = nn.Linear(width, (heads + 2 * self.key_value_heads) * features, bias=bias != "none")
        self.project_out = nn.Linear(heads * features, width, bias=bias == "all")
        self.head_norms = None
        if head_norm is not None:
            self.head_norms = nn.ModuleList(nn.RMSNorm(features, eps=head_norm) for _ in range(2))

    def forward(self, tokens: Float[Tensor, "b n d"], view: View) -> Float[Tensor, "b n d"]:
        """Each token's mixture of the tokens it may see."""
        queries, keys, values = self._split(self.project_in(tokens), view.rotation)
        if view.cache is not None:
            keys, values = view.cache.extend(self.layer, keys, values)
        if view.lengths is None:
            mixed = self._mix(queries, keys, values, view)
        else:
            parts = zip(*(heads.split(view.lengths, dim=2) for heads in (queries, keys, values)), strict=True)
            mixed = torch.cat([self._mix(query, key, value, view) for query, key, value in parts], dim=2)
        return self.project_out(mixed.transpose(1, 2).flatten(2))

    def _mix(self, queries: Tensor, keys: Tensor, values: Tensor, view: View) -> Tensor:
        if view.bias is None:
            return self.core(queries, keys, values, view.mask)
        bias = view.bias[..., : queries.shape[2], : keys.shape[2]]  # made for the longest of packed sequences
        return self.core(queries, keys, values, view.mask, bias)

    def _split(self, projected: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        groups = self.key_value_heads
        parts = projected.unflatten(-1, (self.heads + 2 * groups, -1))
        turned, values = parts.split([self.heads + groups, groups], dim=2)
        if self.head_norms is not None:
            both = turned.split([self.heads, groups], dim=2)
            turned = torch.cat([norm(part) for norm, part in zip(self.head_norms, both, strict=True)], dim=2)
        if rotation is not None:  # queries and keys turn together
            turned = rotate(turned, rotation)
        queries, keys = turned.split([self.heads, groups], dim=2)
        return queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)


def core(kind: Attention, *, causal: bool, context: int, features: int, dropout: float) -> nn.Module:
    """The core that a configuration describes, for `features` a head. Dropout on weights: softmax alone has them."""
    match kind:
        case Local():
            return LocalCore(window=kind.window, causal=causal)
        case BlockSparse():
            return BlockSparseCore(
                block=kind.block,
                window=kind.window,
                globals=kind.globals,
                random=kind.random,
                seed=kind.seed,
                causal=causal,
            )
        case Linformer():
            return LinformerCore(rank=kind.rank, context=context, causal=causal)
        case Performer():
            return PerformerCore(head_features=features, features=kind.features, seed=kind.seed, causal=causal)
        case Softmax():
            return SoftmaxCore(causal=causal, dropout=dropout)
    raise ValueError(f"attention {kind!r} is unknown: choose one of the kinds in attention/config.py")
