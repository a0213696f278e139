"""Pictures from records to tensors: decoded, fitted to a square, and varied while training.

They stay uint8 until they lie on the device, where `unit` makes them the 0..1 that encoders take: a quarter of the
bytes to move. What varies is drawn from the loader's generator, so that it is a pure function of the position.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from components.data.images_config import AugmentConfig
from components.data.records import decode_image


def picture(record: dict[str, Any], size: int) -> UInt8[Tensor, "3 y x"]:
    """The record's picture, size squared: its middle square, resized where it has another size."""
    image = decode_image(record["image"])
    side = min(image.shape[1:])
    top, left = (image.shape[1] - side) // 2, (image.shape[2] - side) // 2
    image = image[:, top : top + side, left : left + side]
    if side == size:
        return image
    resized = F.interpolate(image[None].float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
    return resized[0].round().clamp(0, 255).to(torch.uint8)


def vary(
    image: UInt8[Tensor, "3 y x"], config: AugmentConfig, rng: np.random.Generator | None
) -> UInt8[Tensor, "3 y x"]:
    """The picture as training sees it this time; as it is where rng is None."""
    if rng is None:
        return image
    if config.shift:
        down, right = rng.integers(-config.shift, config.shift + 1, 2).tolist()
        rows, columns = (torch.arange(size) for size in image.shape[1:])
        image = image[:, (rows + down).clamp(0, len(rows) - 1)][:, :, (columns + right).clamp(0, len(columns) - 1)]
    if config.mirror and rng.random() < 0.5:
        image = image.flip(2)
    if rng.random() < config.erase:
        image = _erase(image.clone(), rng)
    return image


def _erase(image: Tensor, rng: np.random.Generator) -> Tensor:
    """A square of a quarter to a half of the side turned grey (Zhong et al. 2020, "Random Erasing")."""
    side = image.shape[1]
    edge = int(rng.integers(side // 4, side // 2 + 1))
    top, left = rng.integers(0, side - edge + 1, 2).tolist()
    image[:, top : top + edge, left : left + edge] = 127
    return image


def unit(images: UInt8[Tensor, "b 3 y x"]) -> Float[Tensor, "b 3 y x"]:
    """Values from 0 to 1."""
    return images.float() / 255
