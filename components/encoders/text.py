"""Text to `Encoded`: token embeddings and the bidirectional stack, pooled by the mean over real tokens.

No token is set aside for the class: the mean uses every token's output and needs no pretraining of its own.
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
        self.width = config.transformer.width
        self.embedding = nn.Embedding(vocabulary, self.width)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_DEVIATION)
        self.stack = Stack(config.transformer, context=config.context, scale=EMBEDDING_DEVIATION)

    def forward(self, ids: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"] | None = None) -> Encoded:
        """mask: True where a token is real (padding follows the text); None when all are, which is faster."""
        tokens = self.contextual(ids, mask)
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        return Encoded(tokens, mean_of_real(tokens, mask), mask)

    def contextual(
        self, ids: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"] | None = None, lengths: Sequence[int] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Tokens alone. lengths: the one row of ids holds texts of so many tokens, packed without padding."""
        return self.stack(self.embedding(ids), mask, lengths=lengths)
