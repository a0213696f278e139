"""How sounds vary while training, as params.yaml states it. Free of torch."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval


@dataclass(frozen=True)
class VaryConfig:
    noisy: Annotated[float, Interval(ge=0.0, le=1.0)] = 0.0  # share of sounds that get pink noise
    quietest: Annotated[float, Interval(ge=-20.0, le=80.0)] = 30.0  # signal over noise, dB: drawn evenly from
    loudest: Annotated[float, Interval(ge=-20.0, le=80.0)] = 5.0  # loudest to quietest
    speed: Annotated[float, Interval(ge=0.0, le=0.5)] = 0.0  # played up to this share faster or slower: pitch moves too

    def __post_init__(self) -> None:
        if self.loudest > self.quietest:
            raise ValueError(f"loudest ({self.loudest} dB) must not exceed quietest ({self.quietest} dB)")
