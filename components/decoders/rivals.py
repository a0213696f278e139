"""Decoders of one size and different kinds, to be compared: a Transformer, and recurrent nets as deep and as large."""

from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig, Rival
from components.decoders.recurrent import RecurrentDecoder, width_for
from components.transformer.config import TransformerConfig


def rival(kind: Rival, shape: TransformerConfig, context: int, vocabulary: int) -> CausalDecoder | RecurrentDecoder:
    """The decoder of a kind; a recurrent one with the Transformer's depth and about as many parameters."""
    transformer = CausalDecoder(DecoderConfig(shape, context), vocabulary)
    if kind == "transformer":
        return transformer

    def recurrent(width: int) -> RecurrentDecoder:
        return RecurrentDecoder(kind, vocabulary, embedding=shape.width, width=width, depth=shape.depth)

    return recurrent(width_for(sum(each.numel() for each in transformer.parameters()), recurrent))
