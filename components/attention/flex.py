"""Blockwise patterns on CUDA: FlexAttention (Dong et al. 2024) with a mask of blocks made from the pattern.

The blocks come from the pattern's own slices, so nothing as large as length x length is ever evaluated, and are kept a
length. Padding differs from batch to batch: it is a modification of the scores, not of the kept mask.
"""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from components.attention.blockwise import Pattern

BLOCK = 128  # tokens of a side of FlexAttention's blocks: its kernels' own tiles divide it
KINDS = 64  # of lengths, batches and patterns, before torch gives up compiling


def attend_cuda(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, pattern: Pattern) -> Tensor:
    """As BlockwiseCore.forward; compiled at the first call of a length.

    torch._dynamo.exc.FailOnRecompileLimitHit: after KINDS lengths and patterns; going on would mean full matrices.
    """
    with torch._dynamo.config.patch(recompile_limit=KINDS, fail_on_recompile_limit_hit=True):
        return attend_flex(queries, keys, values, mask, pattern, _compiled())


def attend_flex(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, pattern: Pattern, kernel: Callable[..., Any]
) -> Tensor:
    """Out [b h n c] by `kernel`, flex_attention or its compiled form, for queries [b h n c] and keys [b g n c].

    mask: bool [b n], True where a key is real; None when all are. A query that sees no real key gets zeros.
    """
    return kernel(
        queries,
        keys,
        values,
        score_mod=None if mask is None else lambda score, b, _h, _q, key: torch.where(mask[b, key], score, -torch.inf),
        block_mask=block_mask(pattern, queries.device),
        enable_gqa=keys.shape[1] != queries.shape[1],
    )


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=False)  # code for all lengths fails to build for some patterns


@lru_cache(maxsize=64)
def block_mask(pattern: Pattern, device: torch.device) -> BlockMask:
    """The blocks that hold any pair the pattern allows, and its rule for the pairs within."""
    length = pattern.length
    count = -(-length // BLOCK)
    seen = torch.zeros(count, count, dtype=torch.bool)
    for row in range(count):
        for part in pattern.keys(row * BLOCK, min((row + 1) * BLOCK, length)):
            seen[row, part.start // BLOCK : -(-part.stop // BLOCK)] = True
    first = seen.int().argsort(dim=1, descending=True, stable=True)  # seen blocks first, in order
    rule = pattern.rule(device)
    return BlockMask.from_kv_blocks(
        seen.sum(1, dtype=torch.int32).to(device)[None, None],
        first.to(device, torch.int32)[None, None],
        BLOCK_SIZE=BLOCK,
        mask_mod=lambda _b, _h, query, key: rule(query, key),
        seq_lengths=(length, length),
    )
