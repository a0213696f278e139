"""Softmax attention in bf16 on a CPU: torch's flash kernel forward, a backward pass of our own for short sequences.

The kernel's own (torch 2.11) works on a head at a time, in products too small for matrix units: 34 ms for 32 x 6 heads
of 64 tokens, where batched products over chunks that stay in a core's cache take 10; 27 against 18 ms for 8 x 6 of 256
tokens. Above LONGEST the kernel's is faster again.

Probabilities are computed again from the scores (Dao et al. 2022, algorithm 4), in bf16. To round differences instead
of scores, each query carries its logsumexp as two more features, the upper and the lower bits, against -1 in every key:
the product is then the logarithm of a probability p, and p is off by no more than p |log p| / 512. The row sums of
gradient times output ride on the gradients likewise. Letters: b batch, h heads, n tokens, c features of a head.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import sdpa_backward_flop, sdpa_flop

from components.attention.shapes import inner_contiguous
from components.training.activations import SAVED
from components.training.memory import FLOPS

LONGEST = 512  # tokens
FEWEST = 256  # tokens times heads of all rows: below, setting up costs more than it saves
CHUNK = 1 << 20  # scores at a time

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def serves(queries: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Whether `attend_bf16` is for these: gradients are recorded, and no heads of keys are shared."""
    return (
        all(each.dtype == torch.bfloat16 for each in (queries, keys, values))
        and queries.device.type == "cpu"
        and torch.is_grad_enabled()
        and queries.shape == keys.shape == values.shape
        and queries.shape[2] <= LONGEST
        and queries.shape[:3].numel() >= FEWEST
    )


@torch.library.custom_op("tsumugi::attend_bf16", mutates_args=(), device_types="cpu")
def attend_bf16(queries: Tensor, keys: Tensor, values: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Out [b h n c] and the scores' logsumexp [b h n], for bf16 [b h n c] each. One operation, traced or not."""
    out, sums = _flash(*(inner_contiguous(each) for each in (queries, keys, values)), 0.0, causal)
    return out, sums


@attend_bf16.register_fake
def _(queries: Tensor, keys: Tensor, values: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    return _flash(queries, keys, values, 0.0, causal)


@torch.library.custom_op("tsumugi::attend_bf16_backward", mutates_args=(), device_types="cpu")
def attend_bf16_backward(
    cotangent: Tensor, queries: Tensor, keys: Tensor, values: Tensor, out: Tensor, sums: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values."""
    batch, heads, length, features = queries.shape
    scale = features**-0.5
    exact = 2.0 ** math.floor(math.log2(scale))  # multiplies without rounding
    rest = scale / exact
    gradients = [queries.new_empty(queries.shape) for _ in range(3)]
    by_query, by_key, by_value = (each.view(-1, length, features) for each in gradients)
    most = min(batch * heads, max(1, CHUNK // length**2))
    # room that all chunks share, warm in the cache; what rides along in keys and values is -1
    rooms = [queries.new_full((most, length, features + 2), -1.0) for _ in range(4)]
    squares = [queries.new_empty(most, length, length) for _ in range(2)]
    done = 0
    for part in _chunks(batch, heads, most):
        count = queries[part].shape[0] * queries[part].shape[1]
        query, key, value, slope = (room[:count] for room in rooms)
        probability, change = (square[:count] for square in squares)
        _ride(query, queries[part] * exact, sums[part] / rest)
        _ride(slope, cotangent[part], (cotangent[part] * out[part]).sum(-1, dtype=torch.float32))
        _ride(key, keys[part])
        _ride(value, values[part])
        torch.bmm(query, key.mT, out=probability)
        if rest > 1:
            probability *= rest
        probability.exp_()
        if causal:
            probability.tril_()
        torch.bmm(slope, value.mT, out=change).mul_(probability)
        to = slice(done, done := done + count)
        torch.bmm(change, key[..., :features], out=by_query[to]).mul_(scale)
        torch.bmm(change.mT, query[..., :features], out=by_key[to]).mul_(rest)
        torch.bmm(probability.mT, slope[..., :features], out=by_value[to])
    return gradients[0], gradients[1], gradients[2]


@attend_bf16_backward.register_fake
def _(_cotangent: Tensor, queries: Tensor, *_others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return queries.new_empty(queries.shape), queries.new_empty(queries.shape), queries.new_empty(queries.shape)


def _chunks(batch: int, heads: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Rows and heads, in order, no more than `most` at a time: of several rows all heads, or of one row some."""
    rows = max(1, most // heads)
    for row in range(0, batch, rows):
        for head in range(0, heads, most if rows == 1 else heads):
            yield slice(row, row + rows), slice(head, head + min(most, heads))


def _ride(room: Tensor, vectors: Tensor, along: Float[Tensor, "b h n"] | None = None) -> None:
    """room [b*h n c+2]: the vectors, and the numbers that ride along in two features."""
    room = room.view(*vectors.shape[:3], -1)
    room[..., :-2] = vectors
    if along is not None:
        room[..., -2] = along
        room[..., -1] = along - room[..., -2]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.causal = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, cotangent: Tensor, _sums: None) -> tuple[Tensor | None, ...]:
    return *attend_bf16_backward(cotangent, *ctx.saved_tensors, ctx.causal), None


attend_bf16.register_autograd(_differentiate, setup_context=_keep)
SAVED.add(torch.ops.tsumugi.attend_bf16.default)
FLOPS[torch.ops.tsumugi.attend_bf16] = sdpa_flop
FLOPS[torch.ops.tsumugi.attend_bf16_backward] = sdpa_backward_flop
