"""A causal text decoder: each token guesses the next from those before it (Radford et al. 2019).

The output matrix is the embedding's own (Press & Wolf 2017). Training goes through `loss`, which never holds all
logits; decoding step by step through `hidden` with a cache, taking logits of the last token alone.
"""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from components.attention.cache import Cache
from components.decoders.config import DecoderConfig
from components.decoders.loss import vocabulary_loss
from components.transformer.stack import Stack

EMBEDDING_DEVIATION = 0.02  # GPT-2's


class CausalDecoder(nn.Module):
    """`vocabulary` is the tokenizer's size, which the data decide and the parameters do not."""

    def __init__(self, config: DecoderConfig, vocabulary: int) -> None:
        super().__init__()
        self.context = config.context
        self.embedding = nn.Embedding(vocabulary, config.transformer.width)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_DEVIATION)
        self.stack = Stack(config.transformer, context=config.context, scale=EMBEDDING_DEVIATION, causal=True)

    def forward(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n vocabulary"]:
        """Logits of the token after each. Rows of unequal length may be padded on the right: no token looks ahead."""
        return self.logits(self.hidden(ids))

    def loss(self, ids: Int[Tensor, "b n"], targets: Int[Tensor, "b n"]) -> Float[Tensor, ""]:
        """Mean cross-entropy of `targets` (the token after each of `ids`; loss.IGNORED where none counts), in nats."""
        return vocabulary_loss(self.hidden(ids).flatten(0, 1), self.embedding.weight, targets.flatten())

    def hidden(self, ids: Int[Tensor, "b n"], cache: Cache | None = None) -> Float[Tensor, "b n d"]:
        """Last hidden states; with a cache, of tokens that follow those in it."""
        return self.stack(self.embedding(ids), cache=cache)

    def logits(self, hidden: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape vocabulary"]:
        return F.linear(hidden, self.embedding.weight)

    def cache(self, batch: int) -> Cache:
        return self.stack.cache(batch)
