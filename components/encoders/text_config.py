"""The shape of the text encoder, as params.yaml states it. Free of torch."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from components.transformer.config import TransformerConfig


@dataclass(frozen=True)
class TextConfig:
    transformer: TransformerConfig
    context: Annotated[int, Interval(ge=1, le=1_000_000)]  # longest text, tokens
