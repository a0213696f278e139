"""A masked language model (Devlin et al. 2019, section 3.1): guess chosen tokens from all others, on both sides.

The head runs on the chosen tokens alone: with 15% of them chosen, the product with the vocabulary costs a seventh.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from components.encoders.text import TextEncoder


class MaskedLanguageHead(nn.Module):
    """BERT's head: one dense layer, then the embedding's own matrix as the classifier, with a bias a token."""

    def __init__(self, embedding: nn.Embedding, norm_epsilon: float) -> None:
        super().__init__()
        vocabulary, width = embedding.weight.shape
        self.embedding = embedding
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=norm_epsilon)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, tokens: Float[Tensor, "chosen d"]) -> Float[Tensor, "chosen vocabulary"]:
        return F.linear(self.norm(F.gelu(self.dense(tokens))), self.embedding.weight, self.bias)


class MaskedLanguageModel(nn.Module):
    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = MaskedLanguageHead(encoder.embedding, encoder.config.transformer.norm_epsilon)

    def forward(
        self,
        ids: Int[Tensor, "b n"],
        mask: Bool[Tensor, "b n"] | None,
        chosen: Bool[Tensor, "b n"],
        lengths: Sequence[int] | None = None,
        segments: Int[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "chosen vocabulary"]:
        """Logits for the chosen tokens, row by row: the order of `targets[chosen]`.

        lengths: of texts packed into one row. segments: as the encoder takes them.
        """
        return self.head(self.encoder.contextual(ids, mask, lengths, segments)[chosen])
