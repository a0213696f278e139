"""A pre-norm block: x + attention(norm(x)), then x + feed_forward(norm(x)) (Xiong et al. 2020, figure 1b).

The residual path itself is never normalised, which keeps gradients level with depth and needs no careful warm-up.
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from components.attention.cache import Cache
from components.attention.positions import Rotation
from components.attention.softmax import SoftmaxAttention
from components.transformer.config import TransformerConfig
from components.transformer.feed_forward import FeedForward


class Block(nn.Module):
    def __init__(self, config: TransformerConfig, *, causal: bool) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = SoftmaxAttention(config.width, config.heads, causal=causal)
        self.feed_forward_norm = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(config.width, config.expansion * config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        tokens: Float[Tensor, "b n d"],
        mask: Bool[Tensor, "b m"] | None = None,
        rotation: Rotation | None = None,
        cache: Cache | None = None,
        layer: int = 0,
    ) -> Float[Tensor, "b n d"]:
        attended = self.attention(self.attention_norm(tokens), mask, rotation, cache, layer)
        tokens = tokens + self.dropout(attended)
        return tokens + self.dropout(self.feed_forward(self.feed_forward_norm(tokens)))
