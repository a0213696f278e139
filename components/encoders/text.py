"""Text to `Encoded`: token embeddings and the stack, bidirectional and pooled by the mean unless told otherwise.

No token is set aside for the class: the mean uses every token's output and needs no pretraining of its own. A causal
stack pools by the last real token, which alone has seen the whole text (Radford et al. 2021, section 2.4).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from components.encoders.encoded import Encoded, Encoder, mean_of_real
from components.encoders.text_config import TextConfig
from components.transformer.stack import Stack

EMBEDDING_DEVIATION = 0.02  # GPT-2's and BERT's


class TextEncoder(Encoder):
    """`vocabulary` is the tokenizer's size, which the data decide and the parameters do not."""

    def __init__(self, config: TextConfig, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        self.width = config.transformer.width
        self.embedding = nn.Embedding(vocabulary, self.width)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_DEVIATION)
        self.segments = None
        if config.segments:
            self.segments = nn.Embedding(config.segments, self.width)
            nn.init.normal_(self.segments.weight, std=EMBEDDING_DEVIATION)
        self.stack = Stack(config.transformer, context=config.context, scale=EMBEDDING_DEVIATION, causal=config.causal)

    def forward(
        self,
        ids: Int[Tensor, "b n"],
        mask: Bool[Tensor, "b n"] | None = None,
        segments: Int[Tensor, "b n"] | None = None,
    ) -> Encoded:
        """mask: True where a token is real (padding follows the text); None when all are, which is faster.

        segments: the kind of each token, below config.segments; None when all are of kind 0.
        """
        tokens = self.contextual(ids, mask, segments=segments)
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        return Encoded(tokens, self._pool(tokens, mask), mask)

    def contextual(
        self,
        ids: Int[Tensor, "b n"],
        mask: Bool[Tensor, "b n"] | None = None,
        lengths: Sequence[int] | None = None,
        segments: Int[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Tokens alone. lengths: the one row of ids holds texts of so many tokens, packed without padding."""
        tokens = self.embedding(ids)
        if self.segments is not None:
            tokens = tokens + self.segments(torch.zeros_like(ids) if segments is None else segments)
        elif segments is not None:
            raise ValueError("this encoder tells no segments apart: set `segments` in its configuration")
        return self.stack(tokens, mask, lengths=lengths)

    def _pool(self, tokens: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"]) -> Float[Tensor, "b d"]:
        if self.config.pool == "mean":
            return mean_of_real(tokens, mask)
        place = mask.long().argmax(1) if self.config.pool == "first" else mask.long().cumsum(1).argmax(1)
        return tokens[torch.arange(tokens.shape[0], device=tokens.device), place]
