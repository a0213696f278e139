"""Shapes of the image encoders, as params.yaml states them. Free of torch."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from components.transformer.config import TransformerConfig


@dataclass(frozen=True)
class ImageConfig:
    transformer: TransformerConfig
    size: Annotated[int, Interval(ge=4, le=4096)]  # height and width, pixels
    patch: Annotated[int, Interval(ge=1, le=256)]  # height and width of a patch, pixels: (size / patch)² tokens

    def __post_init__(self) -> None:
        if self.size % self.patch:
            raise ValueError(f"size {self.size} does not divide by patch {self.patch}: choose a multiple of patch")


@dataclass(frozen=True)
class TimmConfig:
    model: str  # a timm vision transformer's name, such as vit_tiny_patch16_224
    size: Annotated[int, Interval(ge=4, le=4096)]  # height and width, pixels
    patch: Annotated[int, Interval(ge=1, le=256)]  # height and width of a patch, pixels

    def __post_init__(self) -> None:
        if self.size % self.patch:
            raise ValueError(f"size {self.size} does not divide by patch {self.patch}: choose a multiple of patch")
