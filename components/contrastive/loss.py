"""The contrastive loss: open_clip's, which also gathers over processes (Radford et al. 2021, figure 3).

A term of its own is for captions that are nearly right.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def clip_loss(
    images: Float[Tensor, "b space"], texts: Float[Tensor, "b space"], scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Mean cross-entropy of finding each picture's text and each text's picture within the batch, in nats."""
    from open_clip.loss import ClipLoss  # 6 s, paid at the first step of those who train

    return ClipLoss()(images, texts, scale)


def distractor_loss(
    images: Float[Tensor, "b space"],
    texts: Float[Tensor, "b space"],
    distractors: Float[Tensor, "b space"],
    scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Mean cross-entropy of telling each picture's text from a nearly right one of its own, in nats.

    The hard negatives of Yuksekgonul et al. 2023 ("NegCLIP"), but each is met by its own picture only.
    """
    return F.softplus(scale * (images * (distractors - texts)).sum(1)).mean()
