"""AdamW (Loshchilov & Hutter, arXiv:1711.05101), fused, with weight decay on matrices only.

Norms, biases, scales and temperatures (at most one dimension), embeddings of positions and class tokens are not
decayed: zero means nothing there. Token embeddings are decayed.
"""

from torch import nn
from torch.optim import AdamW

UNDECAYED = ("position", "pos_embed", "cls_token", "class_embedding")  # parts of names: own modules, timm, open_clip


def decayed(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not any(part in name for part in UNDECAYED)


def adamw(model: nn.Module, weight_decay: float, betas: tuple[float, float]) -> AdamW:
    """Optimiser over the trainable parameters in two groups, decayed and not; the loop sets the learning rate."""
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for name, p in trainable if decayed(name, p)], "weight_decay": weight_decay},
        {"params": [p for name, p in trainable if not decayed(name, p)], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], lr=0.0, betas=betas, fused=True)
