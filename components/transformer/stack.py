"""The transformer itself: positions, blocks and a last norm, over tokens that a modality has made.

Initialisation: weights are drawn with standard deviation sqrt(2 / 5d) (Nguyen & Salazar 2019, "small init"), and the
two projections that end on the residual path are divided by sqrt(2 depth), so that the sum of all branches keeps the
scale of one (Radford et al. 2019, section 2.3).
"""

import math

from jaxtyping import Bool, Float
from torch import Tensor, nn

from components.attention.cache import Cache
from components.attention.positions import Place, positions
from components.transformer.block import Block
from components.transformer.config import TransformerConfig


class Stack(nn.Module):
    """config.depth blocks for up to `context` tokens; `scale` is the standard deviation of the tokens that come in."""

    def __init__(self, config: TransformerConfig, *, context: int, scale: float, causal: bool = False) -> None:
        super().__init__()
        self.config = config
        self.positions = positions(config.positions, Place(context, config.width, config.heads, scale))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, causal=causal) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self._initialise()

    def forward(
        self, tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "b m"] | None = None, cache: Cache | None = None
    ) -> Float[Tensor, "b n d"]:
        """Contextual tokens, normalised. mask: True where a token is real, None when all are (no mask is faster).

        With a cache the tokens follow those already in it. ValueError when they exceed the context.
        """
        start = 0 if cache is None else cache.length
        tokens = self.dropout(self.positions.embed(tokens, start))
        rotation = self.positions.rotation(tokens.shape[1], start)
        for layer, block in enumerate(self.blocks):
            tokens = block(tokens, mask, rotation, cache, layer)
        if cache is not None:
            cache.advance(tokens.shape[1])
        return self.norm(tokens)

    def cache(self, batch: int) -> Cache:
        """Room for the keys and values of `batch` rows over the whole context, in the weights' type."""
        weight = self.norm.weight
        heads = self.config.heads
        features = self.config.width // heads
        context = self.positions.context
        return Cache(self.config.depth, batch, heads, context, features, weight.dtype, weight.device)

    def _initialise(self) -> None:
        deviation = math.sqrt(2 / (5 * self.config.width))
        for name, module in self.blocks.named_modules():
            if isinstance(module, nn.Linear):
                scale = math.sqrt(2 * self.config.depth) if name.endswith("project_out") else 1.0
                nn.init.normal_(module.weight, std=deviation / scale)
                nn.init.zeros_(module.bias)
