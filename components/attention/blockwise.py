"""Exact softmax attention over a sparse pattern, in time and memory that grow with what the pattern lets see.

A pattern says for a run of queries which slices of the keys they may see, and which pairs among those. On a CPU a
tile of queries at a time goes through torch's flash kernel (Dao et al. 2022, Algorithms 1 and 4): one slice of the keys
is a view, several are gathered, and a bias of 0 and -inf is given only to tiles that need one. The backward pass calls
the kernel's own backward a tile and adds up the keys' gradients in place: recording slices for autograd would set aside
a whole gradient a slice. On CUDA the same pattern becomes a FlexAttention block mask (flex.py).
Letters: b batch, h heads, g heads of keys and values, n tokens, c features of a head.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.autograd.function import once_differentiable

from components.attention.shapes import check, in_autocast, inner_contiguous

Rule = Callable[
    [Tensor, Tensor], Tensor
]  # places of queries and of keys, broadcast together -> may they see each other

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Pattern(ABC):
    """Who sees whom among `length` tokens. Frozen: plans are kept by it."""

    length: int

    @property
    @abstractmethod
    def tile(self) -> int:
        """Queries that are computed together."""

    @abstractmethod
    def keys(self, start: int, stop: int) -> Sequence[slice]:
        """All keys that any of the queries start..stop-1 sees: ascending slices that do not touch."""

    @abstractmethod
    def rule(self, device: torch.device) -> Rule: ...


@dataclass(frozen=True)
class Tile:
    queries: slice
    keys: Sequence[slice]
    bias: Float[Tensor, "rows columns"] | None  # 0 where a query sees a key, -inf elsewhere; None where it sees all


class BlockwiseCore(nn.Module, ABC):
    """Base of the kinds that are a pattern."""

    @abstractmethod
    def pattern(self, length: int) -> Pattern:
        """Who sees whom among so many tokens."""

    def forward(
        self,
        queries: Float[Tensor, "b h n c"],
        keys: Float[Tensor, "b g m c"],
        values: Float[Tensor, "b g m c"],
        mask: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b h n c"]:
        """mask: True where a key is real; a query that sees no real key gets zeros."""
        check(queries, keys, values, mask)
        queries, keys, values = in_autocast(queries, keys, values)
        run = _attend_untraced if torch.compiler.is_compiling() else _attend
        return run(queries, keys, values, mask, self.pattern(queries.shape[2]))


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, pattern: Pattern) -> Tensor:
    if queries.device.type == "cuda":
        from components.attention.flex import attend_cuda  # FlexAttention takes seconds to import

        return attend_cuda(queries, keys, values, mask, pattern)
    padding = None
    if mask is not None:
        padding = torch.zeros(mask.shape, dtype=queries.dtype).masked_fill_(~mask, -torch.inf)[:, None, None]
    return _Blockwise.apply(queries, keys, values, padding, plan(pattern, queries.dtype))


# A clean break of a compiled graph. The public torch.compiler.disable would import dynamo (2 s) with this file.
_attend_untraced = _disable_dynamo(_attend)


@lru_cache(maxsize=64)
def plan(pattern: Pattern, dtype: torch.dtype) -> tuple[Tile, ...]:
    """The tiles that cover all queries. Equal biases are one tensor: most tiles of a window look alike."""
    rule = pattern.rule(torch.device("cpu"))
    known: dict[tuple[torch.Size, bytes], Tensor | None] = {}
    tiles = []
    for start in range(0, pattern.length, pattern.tile):
        queries = slice(start, min(start + pattern.tile, pattern.length))
        keys = pattern.keys(queries.start, queries.stop)
        sees = rule(_places([queries])[:, None], _places(keys))
        key = sees.shape, sees.numpy().tobytes()
        if key not in known:
            bias = torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, -torch.inf)
            known[key] = None if sees.all() else bias
        tiles.append(Tile(queries, keys, known[key]))
    return tuple(tiles)


def _places(slices: Sequence[slice]) -> Tensor:
    return torch.cat([torch.arange(part.start, part.stop) for part in slices])


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None, tiles: tuple[Tile, ...]
    ) -> Tensor:
        queries, keys, values = (inner_contiguous(tensor) for tensor in (queries, keys, values))
        out = _tokens_first(queries)
        sums = _tokens_first(queries[..., 0], torch.float64 if queries.dtype == torch.float64 else torch.float32)
        for tile in tiles:
            rows = queries[:, :, tile.queries], _gather(keys, tile.keys), _gather(values, tile.keys)
            out[:, :, tile.queries], sums[:, :, tile.queries] = _forward(*rows, attn_mask=_bias(tile, padding))
        ctx.save_for_backward(queries, keys, values, padding, out, sums)
        ctx.tiles = tiles
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, padding, out, sums = ctx.saved_tensors
        cotangent = inner_contiguous(cotangent)
        half = queries.dtype in (torch.bfloat16, torch.float16)  # many tiles add to one key: sum in single precision
        by_query = _tokens_first(queries)
        by_key, by_value = (_tokens_first(keys, torch.float32 if half else keys.dtype).zero_() for _ in range(2))
        for tile in ctx.tiles:
            part = tile.queries
            by_query[:, :, part], *gradients = _backward(
                cotangent[:, :, part],
                queries[:, :, part],
                _gather(keys, tile.keys),
                _gather(values, tile.keys),
                out[:, :, part],
                sums[:, :, part],
                0.0,  # dropout
                False,  # causal: the bias says it
                attn_mask=_bias(tile, padding),
            )
            for total, gradient in zip((by_key, by_value), gradients, strict=True):
                _scatter(total, gradient, tile.keys)
        return by_query, by_key.to(keys.dtype), by_value.to(values.dtype), None, None


def _gather(tensor: Tensor, slices: Sequence[slice]) -> Tensor:
    parts = [tensor[:, :, part] for part in slices]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _scatter(total: Tensor, gathered: Tensor, slices: Sequence[slice]) -> None:
    start = 0
    for part in slices:
        stop = start + part.stop - part.start
        total[:, :, part] += gathered[:, :, start:stop]
        start = stop


def _bias(tile: Tile, padding: Tensor | None) -> Tensor | None:
    """[rows, columns] or [b, 1, rows, columns], as the kernel takes it."""
    if padding is None:
        return tile.bias
    columns = torch.cat([padding[..., part] for part in tile.keys], dim=-1)
    if tile.bias is None:
        return columns.expand(-1, 1, tile.queries.stop - tile.queries.start, -1)
    return columns + tile.bias


def _tokens_first(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Room shaped [b, h, n, ...], laid out [b, n, h, ...] as SDPA does it: merging the heads then copies nothing."""
    return like.transpose(1, 2).new_empty(like.transpose(1, 2).shape, dtype=dtype or like.dtype).transpose(1, 2)
