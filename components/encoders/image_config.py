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
    pool: Literal["mean", "class"] = "mean"  # the picture's vector: mean of the patches, or a token of its own
    norm_first: bool = False  # normalise tokens with their positions, before the first block (CLIP)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of red, green, blue: taken off values from 0 to 1, ...
    deviation: tuple[float, float, float] = (0.5, 0.5, 0.5)  # ... which are then divided by this

    def __post_init__(self) -> None:
        if self.size % self.patch:
            raise ValueError(f"size {self.size} does not divide by patch {self.patch}: choose a multiple of patch")
        if self.stem == "convolutions" and (self.patch < 2 or self.patch & (self.patch - 1)):
            raise ValueError(f"convolutions halve the picture: patch {self.patch} must be 2, 4, 8, ...")
        if self.norm_first and self.transformer.norm_place == "post":
            raise ValueError("norm_first is for norm_place pre: with post, the stack begins with a norm anyway")
        if not all(value > 0 for value in self.deviation):
            raise ValueError(f"deviation {list(self.deviation)} divides the pixels' values: it must be above 0")


@dataclass(frozen=True)
class TimmConfig:
    model: str  # a timm vision transformer's name, such as vit_tiny_patch16_224
    size: Annotated[int, Interval(ge=4, le=4096)]  # height and width, pixels
    patch: Annotated[int, Interval(ge=1, le=256)]  # height and width of a patch, pixels

    def __post_init__(self) -> None:
        if self.size % self.patch:
            raise ValueError(f"size {self.size} does not divide by patch {self.patch}: choose a multiple of patch")
