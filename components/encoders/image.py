"""Pictures to `Encoded`: the own stack as a vision transformer (Dosovitskiy et al. 2021), or timm's.

Both take values from 0 to 1 and normalise them themselves, to -1 to 1 unless the own one is told otherwise, so that
training and serving cannot disagree. The own one pools by the mean over patches (Beyer et al. 2022, "Better plain ViT
baselines"), or by a class token that stands before them.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from components.encoders.encoded import Encoded, Encoder
from components.encoders.image_config import ImageConfig, TimmConfig
from components.encoders.initialise import keep_scale
from components.transformer.stack import Stack

CHANNELS = 3
SCALE = 0.5  # deviation of the tokens, which positions are drawn for


class PatchEmbedding(nn.Module):
    """Cut a picture into squares and project each: a strided convolution, written as the matrix product that it is."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.project = nn.Linear(CHANNELS * patch * patch, width)
        keep_scale(self)

    def forward(self, images: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b n d"]:
        squares = images.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))  # b 3 rows p columns p
        return self.project(squares.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))


class ConvolutionalStem(nn.Sequential):
    """Halve the picture by 3x3 convolutions until a pixel is a patch (Xiao et al. 2021, "Early convolutions help
    transformers see better"): edges are there from the start, and little training goes further."""

    def __init__(self, patch: int, width: int) -> None:
        halvings = patch.bit_length() - 1
        widths = [CHANNELS, *(max(8, width >> (halvings - 1 - step)) for step in range(halvings))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU()]
        super().__init__(*layers[:-1])  # the last convolution is the projection to tokens
        keep_scale(self)

    def forward(self, images: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b n d"]:
        return super().forward(images).flatten(2).transpose(1, 2)


STEMS: dict[str, Callable[[int, int], nn.Module]] = {"patches": PatchEmbedding, "convolutions": ConvolutionalStem}


class ImageEncoder(Encoder):
    gain: Tensor
    shift: Tensor

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.config = config
        self.size = config.size
        self.width = config.transformer.width
        mean, deviation = (torch.tensor(values).view(CHANNELS, 1, 1) for values in (config.mean, config.deviation))
        self.register_buffer("gain", 1 / deviation, persistent=False)
        self.register_buffer("shift", -mean / deviation, persistent=False)
        self.stem = STEMS[config.stem](config.patch, self.width)
        self.summary = nn.Parameter(torch.randn(self.width) * SCALE) if config.pool == "class" else None
        self.stack = Stack(
            config.transformer,
            context=(config.size // config.patch) ** 2 + (config.pool == "class"),
            scale=SCALE,
            norm_first=config.norm_first,
        )

    def forward(self, images: Float[Tensor, "b 3 y x"]) -> Encoded:
        """images: values from 0 to 1, config.size squared; ValueError for another size."""
        _check_size(images, self.size)
        tokens = self.stem(images * self.gain + self.shift)
        if self.summary is None:
            tokens = self.stack(tokens)
            return Encoded(tokens, tokens.mean(1), _all_real(tokens))
        first = self.summary.to(tokens.dtype).expand(len(tokens), 1, -1)
        tokens = self.stack(torch.cat([first, tokens], dim=1))
        return Encoded(tokens, tokens[:, 0], _all_real(tokens))


class TimmImageEncoder(Encoder):
    """A vision transformer of timm's, by name, built without pretrained weights; pooled as that model pools."""

    model: Any  # timm types its models as bare modules

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        import timm  # 4 s: only for those who use it

        known = timm.list_models("vit_*")
        if config.model not in known:
            raise ValueError(
                f"timm has no vision transformer {config.model!r}: see timm.list_models('vit_*'), {len(known)} names"
            )
        self.size = config.size
        self.model = timm.create_model(
            config.model, pretrained=False, num_classes=0, img_size=config.size, patch_size=config.patch
        )
        self.width = self.model.num_features

    def forward(self, images: Float[Tensor, "b 3 y x"]) -> Encoded:
        """images: values from 0 to 1, config.size squared; ValueError for another size."""
        _check_size(images, self.size)
        tokens = self.model.forward_features(images * 2 - 1)
        return Encoded(tokens, self.model.forward_head(tokens, pre_logits=True), _all_real(tokens))


def image_encoder(config: ImageConfig | TimmConfig) -> ImageEncoder | TimmImageEncoder:
    """The encoder that a configuration describes."""
    return TimmImageEncoder(config) if isinstance(config, TimmConfig) else ImageEncoder(config)


def _check_size(images: Tensor, size: int) -> None:
    if images.shape[2:] != (size, size):
        height, width = images.shape[2:]
        raise ValueError(f"pictures of {height}x{width} pixels in an encoder for {size}x{size}: resize them first")


def _all_real(tokens: Tensor) -> Tensor:
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
