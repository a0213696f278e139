"""Shapes and choices of the decoders, as params.yaml states them. Free of torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from components.transformer.config import TransformerConfig

Rival = Literal["transformer", "lstm", "gru"]  # kinds of decoders that are compared (decoders/rivals.py)


@dataclass(frozen=True)
class DecoderConfig:
    transformer: TransformerConfig
    context: Annotated[int, Interval(ge=1, le=1_000_000)]  # longest sequence, tokens
    tied: bool = True  # the output matrix is the embedding's
    label_smoothing: Annotated[float, Interval(ge=0.0, lt=1.0)] = 0.0  # share of a target given to all tokens alike


@dataclass(frozen=True)
class SamplingConfig:
    temperature: Annotated[float, Interval(ge=0.0, le=100.0)] = 1.0  # divides the logits; 0 takes the likeliest token
    top_k: Annotated[int, Interval(ge=0)] = 0  # likeliest tokens to draw from; 0 for all
    top_p: Annotated[float, Interval(gt=0.0, le=1.0)] = 1.0  # smallest set of likeliest tokens with this share together
