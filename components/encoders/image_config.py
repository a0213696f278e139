"""Shapes of the image encoders, as params.yaml states them. Free of torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from components.transformer.config import TransformerConfig


@dataclass(frozen=True)
class ImageConfig:
    transformer: TransformerConfig
    size: Annotated[int, Interval(ge=4, le=4096)]  # height and width, pixels
    patch: Annotated[int, Interval(ge=1, le=256)]  # height and width of a patch, pixels: (size / patch)² tokens
    stem: Literal["patches", "convolutions"] = "patches"  # how pixels become tokens (encoders/image.py)

    def __post_init__(self) -> None:
        if self.size % self.patch:
            raise ValueError(f"size {self.size} does not divide by patch {self.patch}: choose a multiple of patch")
        if self.stem == "convolutions" and (self.patch < 2 or self.patch & (self.patch - 1)):
            raise ValueError(f"convolutions halve the picture: patch {self.patch} must be 2, 4, 8, ...")


@dataclass(frozen=True)
class TimmConfig:
    model: str  # a timm vision transformer's name, such as vit_tiny_patch16_224
    size: Annotated[int, Interval(ge=4, le=4096)]  # height and width, pixels
    patch: Annotated[int, Interval(ge=1, le=256)]  # height and width of a patch, pixels

    def __post_init__(self) -> None:
        if self.size % self.patch:
            raise ValueError(f"size {self.size} does not divide by patch {self.patch}: choose a multiple of patch")
