"""How pictures vary while training, as params.yaml states it. Free of torch."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval


@dataclass(frozen=True)
class AugmentConfig:
    shift: Annotated[int, Interval(ge=0, le=256)] = 0  # farthest move up, down or to a side, pixels; edges are repeated
    mirror: bool = False  # half of the pictures have left and right swapped
    erase: Annotated[float, Interval(ge=0.0, le=1.0)] = 0.0  # share of pictures in which a random square turns grey
