"""The front of a vision transformer: patch projection, class token and positions, as timm and open_clip keep them.

Where a reference's projection has no bias, ours has one of zeros. Once trained it adds the same to every patch, as
their positions do: on the way out it joins those, and the pictures are seen alike.
"""

from torch import Tensor

from components.encoders.image import CHANNELS
from components.encoders.image_config import ImageConfig
from components.interop.layout import Entry

BIAS, POSITIONS = "stem.project.bias", "stack.positions.table"


def front(prefix: str, config: ImageConfig, projection: str, token: Entry, positions: Entry) -> list[Entry]:
    """prefix: of our encoder's names. projection: the reference's convolution."""
    kernel = (config.transformer.width, CHANNELS, config.patch, config.patch)
    return [
        Entry(f"{prefix}stem.project.weight", (f"{projection}.weight",), shape=kernel),
        Entry(f"{prefix}{BIAS}", (f"{projection}.bias",)),
        token,
        positions,
    ]


def without_bias(prefix: str, config: ImageConfig, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors with the projection's bias in the patches' positions."""
    table = own[f"{prefix}{POSITIONS}"].detach().clone()
    table[int(config.pool == "class") :] += own[f"{prefix}{BIAS}"].detach()
    return {name: tensor for name, tensor in own.items() if name != f"{prefix}{BIAS}"} | {f"{prefix}{POSITIONS}": table}
