"""The shape of one transformer stack, shared by every encoder and decoder. Torch-free: params.yaml is read into it."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

Positions = Literal["sinusoidal", "learned", "rotary"]


@dataclass(frozen=True)
class TransformerConfig:
    width: Annotated[int, Interval(ge=8, le=16384)]  # features a token (d_model)
    depth: Annotated[int, Interval(ge=1, le=256)]  # blocks
    heads: Annotated[int, Interval(ge=1, le=256)]  # attention heads; width / heads features each
    expansion: Annotated[int, Interval(ge=1, le=16)] = 4  # hidden features of the feed-forward, in widths
    dropout: Annotated[float, Interval(ge=0.0, lt=1.0)] = 0.0  # share of features zeroed: embeddings, both branches
    positions: Positions = "rotary"  # how a token knows its place (attention/positions.py)

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide by heads {self.heads}: choose a multiple of heads")
        if self.positions == "rotary" and self.width // self.heads % 2:
            raise ValueError(
                f"rotary positions turn pairs of features, and width {self.width} / heads {self.heads} leaves an odd "
                f"{self.width // self.heads}: choose another head count or other positions"
            )
        if self.positions == "sinusoidal" and self.width % 2:
            raise ValueError(f"sinusoidal positions need an even width, not {self.width}")
