"""Norms by name: LayerNorm (Ba et al. 2016), RMSNorm without mean and bias (Zhang & Sennrich 2019), or none."""

from torch import nn

from components.transformer.config import TransformerConfig


def norm(config: TransformerConfig) -> nn.Module:
    """The norm of one place, over the width."""
    match config.norm:
        case "layer":
            return nn.LayerNorm(config.width, eps=config.norm_epsilon)
        case "rms":
            return nn.RMSNorm(config.width, eps=config.norm_epsilon)
        case _:
            return nn.Identity()
