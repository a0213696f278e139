"""Sounds from records to waveforms: decoded, brought to one rate, and varied while training.

Another speed moves pitch and formants together, so that few voices sound like many (Ko et al. 2015, "Audio augmentation
for speech recognition"). What varies is drawn from the loader's generator: a pure function of the position.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from components.data.noise import mix, pink
from components.data.records import decode_sound
from components.data.sounds_config import VaryConfig


def waveform(record: dict[str, Any], rate: int, longest: float) -> Float[Tensor, " samples"]:
    """The record's sound at `rate` Hz, cut after `longest` seconds."""
    from torchaudio.functional import resample

    samples, native = decode_sound(record["sound"])
    return resample(samples, native, rate)[: round(longest * rate)]


def vary(
    samples: Float[Tensor, " samples"], config: VaryConfig, rng: np.random.Generator | None, most: int
) -> Float[Tensor, " varied"]:
    """The sound as training hears it this time, at most `most` samples; as it is where rng is None."""
    if rng is None:
        return samples
    sound = samples.numpy()
    if config.speed:
        times = np.arange(0, len(sound) - 1, 1 + rng.uniform(-config.speed, config.speed))
        sound = np.interp(times, np.arange(len(sound)), sound).astype(np.float32)[:most]
    if rng.random() < config.noisy:
        sound = mix(sound, pink(len(sound), rng), rng.uniform(config.loudest, config.quietest)).astype(np.float32)
    return torch.from_numpy(sound)


def pad(sounds: list[Tensor]) -> tuple[Float[Tensor, "b samples"], Int[Tensor, " b"]]:
    """One row a sound, zeros after its end, and the lengths."""
    lengths = torch.tensor([len(sound) for sound in sounds])
    return torch.nn.utils.rnn.pad_sequence(sounds, batch_first=True), lengths
