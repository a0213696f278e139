"""What the linear floors see: pixels, log-mel frames, words. No feature is learned."""

from collections.abc import Iterable

import numpy as np
import torch
import torchaudio
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, interpolate

SIDE = 28  # pixels: larger pictures are averaged down to it
MELS, FRAMES = 40, 20  # an utterance of any length becomes so many bands and frames
QUIET = 1e-6  # power that counts as silence
# A word, or one Japanese character (kana, kanji): pairs of neighbours then stand in for words that no space divides.
TERM = r"[\u3041-\u30ff\u3400-\u9fff々]|[^\W\u3041-\u30ff\u3400-\u9fff々]+"


def pixels(images: Iterable[Tensor], side: int = SIDE) -> Float[np.ndarray, "n d"]:
    """uint8 [3, h, w] each, to values from 0 to 1; one channel where all are grey. Sizes other than the first's are
    averaged to it."""
    rows: list[Tensor] = []
    size: tuple[int, int] | None = None
    for image in images:
        size = size or (min(side, image.shape[1]), min(side, image.shape[2]))
        small = image.float()[None] / 255
        rows.append(small[0] if small.shape[2:] == size else interpolate(small, size, mode="area")[0])
    stacked = torch.stack(rows)
    grey = bool((stacked[:, :1] == stacked).all())
    return (stacked[:, :1] if grey else stacked).flatten(1).numpy()


def log_mels(sounds: Iterable[tuple[Tensor, int]], frames: int = FRAMES) -> Float[np.ndarray, "n d"]:
    """(samples, rate) each, to 40 log-mel bands x `frames` equal stretches, less the utterance's mean level."""
    transforms: dict[int, torch.nn.Module] = {}
    rows = []
    for samples, rate in sounds:
        if rate not in transforms:
            transforms[rate] = torchaudio.transforms.MelSpectrogram(
                rate, n_fft=round(rate * 0.032), hop_length=round(rate * 0.010), n_mels=MELS, pad_mode="constant"
            )
        bands = transforms[rate](samples).clamp(min=QUIET).log()
        rows.append((adaptive_avg_pool1d(bands, frames) - bands.mean()).flatten())
    return torch.stack(rows).numpy()
