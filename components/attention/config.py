"""The kinds of attention, one frozen dataclass each, told apart by `kind`. Torch-free: params.yaml is read into them.

Which one to take: `softmax` is exact and costs n^2; `local` and `block_sparse` cost n times what a token sees, exactly;
`linformer` (never causal) and `performer` approximate every token's view of every other at a cost linear in n.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval


@dataclass(frozen=True)
class Softmax:
    """Every token sees every other (attention/softmax.py)."""

    kind: Literal["softmax"] = "softmax"


@dataclass(frozen=True)
class Local:
    """A sliding window (attention/local.py)."""

    kind: Literal["local"] = "local"
    window: Annotated[int, Interval(ge=1, le=1_048_576)] = 256  # tokens seen to each side; causal: the last so many


@dataclass(frozen=True)
class BlockSparse:
    """Window, global and random blocks (attention/block_sparse.py). All counts are blocks."""

    kind: Literal["block_sparse"] = "block_sparse"
    block: Annotated[int, Interval(ge=1, le=4096)] = 64  # tokens of a block
    window: Annotated[int, Interval(ge=1, le=4096)] = 3  # seen around it, itself counted: odd; causal: the last so many
    globals: Annotated[int, Interval(ge=0, le=4096)] = 1  # first blocks, which see all and are seen by all
    random: Annotated[int, Interval(ge=0, le=4096)] = 2  # further blocks that a block sees, drawn once
    seed: Annotated[int, Interval(ge=0, le=2**63 - 1)] = 0  # of that draw


@dataclass(frozen=True)
class Linformer:
    """Keys and values projected along the length (attention/linformer.py)."""

    kind: Literal["linformer"] = "linformer"
    rank: Annotated[int, Interval(ge=1, le=65536)] = 128  # keys that are left of a whole sequence


@dataclass(frozen=True)
class Performer:
    """Softmax's kernel by random features (attention/performer.py)."""

    kind: Literal["performer"] = "performer"
    features: Annotated[int, Interval(ge=1, le=65536)] = 256  # random features of a head: the error falls by their root
    seed: Annotated[int, Interval(ge=0, le=2**63 - 1)] = 0  # of the features, drawn once


Attention = Softmax | Local | BlockSparse | Linformer | Performer
