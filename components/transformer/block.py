"""One block: attention and feed-forward, each a branch beside the residual path.

Pre-norm, x + branch(norm(x)) (Xiong et al. 2020, figure 1b): the residual path itself is never normalised, which keeps
gradients level with depth and needs no careful warm-up. Post-norm, norm(x + branch(x)), is the original transformer's
and BERT's (figure 1a).
"""

from jaxtyping import Float
from torch import Tensor, nn

from components.attention.multi_head import MultiHeadAttention
from components.attention.view import View
from components.transformer.config import TransformerConfig
from components.transformer.drop_path import DropPath
from components.transformer.feed_forward import FeedForward
from components.transformer.norm import norm


class Block(nn.Module):
    """core: how heads are mixed (attention/multi_head.py). layer: this block's number; drop_path: its rate."""

    def __init__(self, config: TransformerConfig, core: nn.Module, layer: int = 0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.first = config.norm_place == "pre"
        self.attention_norm = norm(config)
        self.attention = MultiHeadAttention(
            config.width,
            config.heads,
            core,
            key_value_heads=config.groups,
            features=config.features,
            bias=config.bias,
            head_norm=config.norm_epsilon if config.head_norm else None,
            layer=layer,
        )
        self.feed_forward_norm = norm(config)
        self.feed_forward = FeedForward(config.width, config.hidden, config.activation, config.bias == "all")
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Float[Tensor, "b n d"], view: View) -> Float[Tensor, "b n d"]:
        if self.first:
            tokens = tokens + self._branch(self.attention(self.attention_norm(tokens), view), view)
            return tokens + self._branch(self.feed_forward(self.feed_forward_norm(tokens)), view)
        tokens = self.attention_norm(tokens + self._branch(self.attention(tokens, view), view))
        return self.feed_forward_norm(tokens + self._branch(self.feed_forward(tokens), view))

    def _branch(self, branch: Tensor, view: View) -> Tensor:
        return self.drop_path(self.dropout(branch), view.lengths)
