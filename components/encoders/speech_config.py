"""The shape of the speech encoder, its features and their masking, as params.yaml states them. Free of torch."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval

from components.transformer.config import TransformerConfig


@dataclass(frozen=True)
class FeaturesConfig:
    """Log-mel features: what the ear keeps of a sound."""

    rate: Annotated[int, Interval(ge=4000, le=192_000)] = 16_000  # samples a second
    window: Annotated[float, Interval(gt=0.0, le=1.0)] = 0.025  # seconds a frame looks at
    hop: Annotated[float, Interval(gt=0.0, le=1.0)] = 0.010  # seconds from frame to frame
    mels: Annotated[int, Interval(ge=8, le=256)] = 80  # bands on the mel scale
    normalise: Literal["bands", "whole"] = "bands"  # what has mean 0 and variance 1; whole: for single words

    def __post_init__(self) -> None:
        if self.window < self.hop:
            raise ValueError(
                f"window {self.window} s is shorter than hop {self.hop} s: sound between frames would be lost"
            )


@dataclass(frozen=True)
class MaskingConfig:
    """SpecAugment (Park et al. 2019) on the features, in training only. Counts of 0 leave it out."""

    bands: Annotated[int, Interval(ge=0, le=10)] = 0  # masks over frequency
    band_width: Annotated[int, Interval(ge=1, le=256)] = 20  # widest, mel bands
    spans: Annotated[int, Interval(ge=0, le=20)] = 0  # masks over time
    span_width: Annotated[int, Interval(ge=1, le=10_000)] = 20  # widest, frames


@dataclass(frozen=True)
class SpeechConfig:
    transformer: TransformerConfig
    longest: Annotated[float, Interval(gt=0.0, le=3600.0)]  # longest utterance, seconds
    subsampling: Literal[2, 4] = 4  # frames that become one token
    channels: Annotated[int, Interval(ge=1, le=1024)] = 32  # of the convolutional front
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
