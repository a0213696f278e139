"""The contrastive loss: open_clip's, which also gathers over processes (Radford et al. 2021, figure 3)."""

from jaxtyping import Float
from torch import Tensor


def clip_loss(
    images: Float[Tensor, "b space"], texts: Float[Tensor, "b space"], scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Mean cross-entropy of finding each picture's text and each text's picture within the batch, in nats."""
    from open_clip.loss import ClipLoss  # 6 s, paid at the first step of those who train

    return ClipLoss()(images, texts, scale)
