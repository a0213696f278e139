"""The shape of the text encoder, as params.yaml states it. Free of torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from components.transformer.config import TransformerConfig


@dataclass(frozen=True)
class TextConfig:
    transformer: TransformerConfig
    context: Annotated[int, Interval(ge=1, le=1_000_000)]  # longest text, tokens
    segments: Annotated[int, Interval(ge=0, le=16)] = 0  # kinds of tokens told apart by a vector each (BERT's are 2)
    causal: bool = False  # no token sees a later one (CLIP's text tower)
    pool: Literal["mean", "first", "last"] = "mean"  # the text's vector: mean of the real tokens, or one of them
