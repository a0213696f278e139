"""A causal text decoder: each token guesses the next from those before it (Radford et al. 2019).

The output matrix is the embedding's own (Press & Wolf 2017), unless `tied` is off. Training goes through `loss`, which
never holds all logits; decoding step by step through `hidden` with a cache, taking logits of the last token alone.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from components.attention.cache import Cache, SlotCache
from components.decoders.config import DecoderConfig
from components.decoders.loss import vocabulary_loss
from components.transformer.stack import Stack

EMBEDDING_DEVIATION = 0.02  # GPT-2's


class CausalDecoder(nn.Module):
    """`vocabulary` is the tokenizer's size, which the data decide and the parameters do not."""

    def __init__(self, config: DecoderConfig, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        self.context = config.context
        self.embedding = nn.Embedding(vocabulary, config.transformer.width)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_DEVIATION)
        self.stack = Stack(config.transformer, context=config.context, scale=EMBEDDING_DEVIATION, causal=True)
        self.smoothing = config.label_smoothing
        self.head = None
        if not config.tied:
            self.head = nn.Linear(config.transformer.width, vocabulary, bias=False)
            nn.init.normal_(self.head.weight, std=EMBEDDING_DEVIATION)

    def forward(
        self, ids: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b n vocabulary"]:
        """Logits of the token after each. Rows padded on the right need no mask: no token looks ahead."""
        return self.logits(self.hidden(ids, mask=mask))

    def loss(
        self, ids: Int[Tensor, "b n"], targets: Int[Tensor, "b n"], lengths: Sequence[int] | None = None
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy of `targets` (the token after each of `ids`; loss.IGNORED where none counts), in nats.

        Labels are smoothed while training only. lengths: of sequences packed into one row.
        """
        hidden = self.hidden(ids, lengths=lengths).flatten(0, 1)
        return vocabulary_loss(hidden, self.output, targets.flatten(), self.smoothing if self.training else 0.0)

    def hidden(
        self,
        ids: Int[Tensor, "b n"],
        cache: Cache | SlotCache | None = None,
        lengths: Sequence[int] | None = None,
        mask: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Last hidden states; with a cache, of tokens that follow those in it.

        mask: True where a token is real, of all tokens so far. Padding takes places all the same: on the left it is
        for positions that tell distances alone (rotary, alibi, relative).
        """
        return self.stack(self.embedding(ids), mask, cache, lengths)

    def logits(self, hidden: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape vocabulary"]:
        return F.linear(hidden, self.output) if self.head is None else self.head(hidden)

    @property
    def output(self) -> Float[Tensor, "vocabulary d"]:
        """The output matrix."""
        return self.embedding.weight if self.head is None else self.head.weight

    def cache(self, batch: int) -> Cache:
        return self.stack.cache(batch)

    def slots(self, slots: int) -> SlotCache:
        return self.stack.slots(slots)
