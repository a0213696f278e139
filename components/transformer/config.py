"""The shape of one transformer stack, shared by every encoder and decoder. Torch-free: params.yaml is read into it."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Gt, Interval

from components.attention.config import Attention, Softmax
from components.choices import check_choices

Share = Annotated[float, Interval(ge=0.0, lt=1.0)]
BIASED = ("alibi", "relative")  # positions that add to the scores of attention
TURNED = "rotary"


@dataclass(frozen=True)
class TransformerConfig:
    width: Annotated[int, Interval(ge=8, le=16384)]  # features a token (d_model)
    depth: Annotated[int, Interval(ge=1, le=256)]  # blocks
    heads: Annotated[int, Interval(ge=1, le=256)]  # attention heads
    key_value_heads: Annotated[int, Interval(ge=1, le=256)] | None = None  # shared by groups of heads; null: as heads
    head_features: Annotated[int, Interval(ge=1, le=1024)] | None = None  # of a head; null: width / heads
    attention: Attention = field(default_factory=Softmax)  # who sees whom, and at what cost
    expansion: Annotated[float, Interval(gt=0.0, le=16.0)] = 4.0  # hidden features of the feed-forward, in widths
    activation: Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "swiglu"] = "gelu"  # swiglu: gated, two products in
    norm: Literal["layer", "rms", "none"] = "layer"
    norm_place: Literal["pre", "post"] = "pre"  # before each branch, or after each sum
    norm_epsilon: Annotated[float, Gt(0.0)] = 1e-5  # added to the variance
    head_norm: bool = False  # RMSNorm of each head's queries and keys
    bias: Literal["all", "qkv", "none"] = "all"  # which projections have one
    dropout: Share = 0.0  # share of features zeroed in each branch
    attention_dropout: Share = 0.0  # share of attention weights zeroed; leaves the fast kernel on a CPU
    position_dropout: Share | None = None  # share of features zeroed of tokens with their positions; null: as dropout
    drop_path: Share = 0.0  # how often the last block's branches are skipped, per sequence; rises linearly from 0
    positions: Literal["none", "sinusoidal", "learned", "rotary", "alibi", "relative"] = "rotary"
    rotary_base: Annotated[float, Gt(1.0)] = 10000.0  # of the longest wavelength
    initialise: Literal["scaled", "constant"] = "scaled"  # weights' deviation: by width and depth, or 0.02

    def __post_init__(self) -> None:
        check_choices(self)
        if self.head_features is None and self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide by heads {self.heads}: choose a multiple of heads")
        if self.heads % self.groups:
            raise ValueError(
                f"heads {self.heads} do not divide by key_value_heads {self.groups}: choose a divisor of heads"
            )
        if self.positions == TURNED and self.features % 2:
            raise ValueError(
                f"rotary positions turn pairs of features, and heads of width {self.width} / {self.heads} leave an odd "
                f"{self.features}: choose another head count or other positions"
            )
        if self.positions == "sinusoidal" and self.width % 2:
            raise ValueError(f"sinusoidal positions need an even width, not {self.width}")
        if not isinstance(self.attention, Softmax):
            if self.positions in BIASED:
                raise ValueError(
                    f"positions {self.positions} add to the scores of softmax attention, and attention "
                    f"{self.attention.kind} has none to add to: choose other positions"
                )
            if self.attention_dropout:
                raise ValueError(
                    f"attention_dropout {self.attention_dropout} zeroes weights of softmax attention, and attention "
                    f"{self.attention.kind} never holds them: set it to 0"
                )

    @property
    def features(self) -> int:
        """Of a head."""
        return self.head_features or self.width // self.heads

    @property
    def groups(self) -> int:
        """Heads of keys and values."""
        return self.key_value_heads or self.heads

    @property
    def hidden(self) -> int:
        """Features inside the feed-forward."""
        return round(self.expansion * self.width)
