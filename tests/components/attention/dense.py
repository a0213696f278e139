"""The reference of all kinds: a full matrix of scores and a mask over it, differentiated by autograd."""

import torch
from torch import Tensor


def inputs(length: int, *, heads=4, groups=4, batch=2, features=8, dtype=torch.float64, seed=0) -> list[Tensor]:
    """Queries, keys, values that record gradients, and a cotangent of the output."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, count, length, features, generator=generator, dtype=torch.float64)
        .to(dtype)
        .requires_grad_(which < 3)
        for which, count in enumerate((heads, groups, groups, heads))
    ]


def softmax(queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor) -> Tensor:
    """allowed: [b or 1, n, m]. A query that may see nothing gets zeros."""
    share = queries.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(share, 1), values.repeat_interleave(share, 1)
    scores = queries @ keys.transpose(2, 3) / queries.shape[3] ** 0.5
    powers = (scores - scores.amax(3, keepdim=True)).exp() * allowed[:, None]
    return powers / powers.sum(3, keepdim=True).clamp_min(1e-300) @ values


def tail(length: int) -> Tensor:
    """Two rows: a whole one, and one that ends early in padding."""
    return torch.arange(length) < torch.tensor([[length], [max(1, length * 2 // 3)]])


def compare(core, given: list[Tensor], expected: Tensor, mask: Tensor | None = None, **tolerance) -> None:
    """The core's output and gradients against `expected` and its gradients."""
    *sources, cotangent = given
    out = core(*sources, mask)
    torch.testing.assert_close(out, expected.to(out.dtype), **tolerance)
    found, wanted = (torch.autograd.grad(each, sources, cotangent, retain_graph=True) for each in (out, expected))
    torch.testing.assert_close(found, wanted, **tolerance)
