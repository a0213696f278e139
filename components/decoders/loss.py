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
        # room that all chunks share: fresh memory would cost more in page faults than the arithmetic on it
        logits = hidden.new_empty(rows, weight.shape[0])
        scores = logits if logits.dtype == torch.float32 else logits.float()
        product = torch.empty_like(weight) if differentiate and scores is not logits else None
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            real = counted[part].unsqueeze(1)
            chosen = targets[part].unsqueeze(1).where(real, 0)
            logit, score = logits[: len(chosen)], scores[: len(chosen)]
            torch.mm(hidden[part], weight.T, out=logit)
            score.copy_(logit)
            score -= score.amax(1, keepdim=True)
            target = (1 - smoothing) * score.gather(1, chosen)
            if smoothing:
                target += smoothing * score.mean(1, keepdim=True)
            sums = score.exp_().sum(1, keepdim=True)
            total += (sums.log() - target).where(real, 0.0).sum()
            if hidden_gradient is None or weight_gradient is None:
                continue
            # the slope of the softmax times its sum: the narrow sides of the products are divided, not every score
            score.scatter_add_(1, chosen, (smoothing - 1) * sums)
            if smoothing:
                score -= smoothing / score.shape[1] * sums
            scale, slope = real / sums, logit.copy_(score)
            torch.mm(slope, weight, out=hidden_gradient[part])
            hidden_gradient[part] *= scale
            scaled = (hidden[part] * scale).to(hidden.dtype)
            if product is None:
                weight_gradient.addmm_(slope.T, scaled)
            else:  # halves are summed in single precision
                weight_gradient += torch.mm(slope.T, scaled, out=product)
        ctx.save_for_backward(hidden_gradient, weight_gradient, counted.sum())
        return total / counted.sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        hidden_gradient, weight_gradient, count = ctx.saved_tensors
        scale = gradient / count
        return hidden_gradient * scale, weight_gradient * scale, None, None
