"""Cross-entropy over a vocabulary without ever holding all logits: project, score and differentiate a chunk at a time.

The gradient of a softmax is known as soon as its loss is, so the forward pass makes it at once, chunk by chunk, and the
backward pass only scales it (the idea of Liger-Kernel, Hsu et al. 2024, section 3.2). For 2,048 tokens and a vocabulary
of 8,192 that is 8 MB at a time instead of three tensors of 67 MB, and no product is done twice.

Label smoothing (Szegedy et al. 2016, section 7): a share of the target goes to all tokens alike.
Letters: t tokens, d width, v vocabulary.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

IGNORED = -100  # a target that counts for nothing, as in torch's cross_entropy
CHUNK = 1 << 22  # logits at a time
PART = 1 << 19  # of them scored at a time: few enough to stay in a core's cache from one pass over them to the next
SLICE = 1024  # rows of the weight's gradient added at a time: in halves, all at once would take as much room again


def vocabulary_loss(
    hidden: Float[Tensor, "t d"], weight: Float[Tensor, "v d"], targets: Int[Tensor, " t"], smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Mean of -log softmax(hidden @ weight.T)[target] over targets that are not IGNORED, in nats, in float32.

    smoothing: share of a target's weight that all tokens get alike, as in torch's cross_entropy.
    Products are in autocast's type where it is on. Differentiable once, in hidden and weight. NaN when all are ignored.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    return _VocabularyLoss.apply(hidden.to(dtype), weight.to(dtype), targets, smoothing)  # type: ignore[return-value]


class _VocabularyLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        differentiate = any(ctx.needs_input_grad)
        total = torch.zeros((), device=hidden.device)
        counted = targets != IGNORED
        hidden_gradient = torch.empty_like(hidden) if differentiate else None
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if differentiate else None
        rows = min(len(hidden), max(1, CHUNK // weight.shape[0]))
        part = min(rows, max(1, PART // weight.shape[0])) if hidden.device.type == "cpu" else rows
        # room that all chunks share: fresh memory would cost more in page faults than the arithmetic on it
        logits = hidden.new_empty(rows, weight.shape[0])
        room = None if logits.dtype == torch.float32 else logits.new_empty(part, weight.shape[0], dtype=torch.float32)
        for start in range(0, len(hidden), rows):
            here = slice(start, min(start + rows, len(hidden)))
            real = counted[here].unsqueeze(1)
            chosen = targets[here].unsqueeze(1).where(real, 0)
            slopes = torch.mm(hidden[here], weight.T, out=logits[: len(real)])
            parts = zip(slopes.split(part), chosen.split(part), strict=True)
            scored = [_slopes(*each, room, smoothing) for each in parts]
            losses, sums = (torch.cat(column) for column in zip(*scored, strict=True))
            total += losses.where(real, 0.0).sum()
            if hidden_gradient is None or weight_gradient is None:
                continue
            # the narrow sides of the products are divided by the sums, not every slope
            scale = real / sums
            torch.mm(slopes, weight, out=hidden_gradient[here])
            hidden_gradient[here] *= scale
            _add_product(weight_gradient, slopes, (hidden[here] * scale).to(hidden.dtype))
        ctx.save_for_backward(hidden_gradient, weight_gradient, counted.sum())
        return total / counted.sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        hidden_gradient, weight_gradient, count = ctx.saved_tensors
        scale = gradient / count
        return hidden_gradient * scale, weight_gradient * scale, None, None


def _slopes(
    logits: Float[Tensor, "t v"], chosen: Int[Tensor, "t 1"], room: Float[Tensor, "_ v"] | None, smoothing: float
) -> tuple[Float[Tensor, "t 1"], Float[Tensor, "t 1"]]:
    """Losses, and the softmax's sums; `logits` become the loss's slopes times these. room: float32, for halves."""
    scores = logits if room is None else room[: len(logits)].copy_(logits)
    scores -= scores.amax(1, keepdim=True)
    target = (1 - smoothing) * scores.gather(1, chosen)
    if smoothing:
        target += smoothing * scores.mean(1, keepdim=True)
    sums = scores.exp_().sum(1, keepdim=True)
    scores.scatter_add_(1, chosen, (smoothing - 1) * sums)
    if smoothing:
        scores -= smoothing / scores.shape[1] * sums
    if room is not None:
        logits.copy_(scores)
    return sums.log() - target, sums


def _add_product(total: Float[Tensor, "v d"], slopes: Float[Tensor, "t v"], hidden: Float[Tensor, "t d"]) -> None:
    """total += slopes.T @ hidden; halves are summed in single precision."""
    if hidden.dtype == total.dtype:
        total.addmm_(slopes.T, hidden)
        return
    room = torch.empty_like(total[:SLICE], dtype=hidden.dtype)
    for rows, slope in zip(total.split(SLICE), slopes.T.split(SLICE), strict=True):
        rows += torch.mm(slope, hidden, out=room[: len(rows)])
