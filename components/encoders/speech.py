"""Speech to `Encoded`: log-mel features, a convolutional front that shortens them, the own stack.

What is distinctive: padding cannot reach a real token. Features are normalised over real frames only, and padded frames
are zeroed before each convolution, so an utterance gives the same tokens alone as in any batch. Features are computed
in float32 outside autocast: a logarithm of small powers does not survive bfloat16.
"""

import torch
import torchaudio
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from components.encoders.encoded import Encoded, Encoder, mean_of_real
from components.encoders.initialise import keep_scale
from components.encoders.speech_config import FeaturesConfig, MaskingConfig, SpeechConfig
from components.transformer.stack import Stack

FLOOR = 1e-6  # power below which a band counts as silent (16-bit sound's own noise lies near it)


class LogMel(nn.Module):
    """Waveforms to log-mel features; an utterance, or each band of it, has mean 0 and variance 1 over its real frames.

    By bands, the microphone's colour goes, and with it the vowel of an utterance as short as a word: `whole` keeps it.
    """

    def __init__(self, config: FeaturesConfig) -> None:
        super().__init__()
        self.hop = round(config.hop * config.rate)
        self.over = (1, 2) if config.normalise == "whole" else (1,)
        window = round(config.window * config.rate)
        self.mel = torchaudio.transforms.MelSpectrogram(
            config.rate,
            n_fft=max(256, 1 << (window - 1).bit_length()),
            win_length=window,
            hop_length=self.hop,
            n_mels=config.mels,
            pad_mode="constant",  # silence, as the padding of a batch is: the last frames do not depend on it
        )

    def frames(self, lengths: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Frames of so many samples."""
        return lengths // self.hop + 1

    def forward(
        self, waveforms: Float[Tensor, "b samples"], lengths: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b frames mels"], Bool[Tensor, "b frames"]]:
        """waveforms: amplitudes from -1 to 1, zeros after `lengths` samples. Gives features (0 on padding) and mask."""
        with torch.autocast(waveforms.device.type, enabled=False):
            features = self.mel(waveforms.float()).clamp(min=FLOOR).log().transpose(1, 2)
            mask = mask_of(self.frames(lengths), features.shape[1])
            real = mask.unsqueeze(-1)
            count = real.expand_as(features).sum(self.over, keepdim=True)
            centred = (features - (features * real).sum(self.over, keepdim=True) / count) * real
            deviation = (centred.square().sum(self.over, keepdim=True) / count).sqrt()
            return centred / (deviation + 1e-3), mask


class Masking(nn.Module):
    """SpecAugment's frequency and time masks (Park et al. 2019, section 2), drawn anew for each utterance."""

    def __init__(self, config: MaskingConfig) -> None:
        super().__init__()
        bands = [torchaudio.transforms.FrequencyMasking(config.band_width, iid_masks=True)] * config.bands
        spans = [torchaudio.transforms.TimeMasking(config.span_width, iid_masks=True)] * config.spans
        self.masks = bands + spans

    def forward(self, features: Float[Tensor, "b frames mels"]) -> Float[Tensor, "b frames mels"]:
        image = features.transpose(1, 2).unsqueeze(1)
        for mask in self.masks:
            image = mask(image)
        return image.squeeze(1).transpose(1, 2)


class Front(nn.Module):
    """3x3 convolutions of stride 2 over time and frequency (Dong et al. 2018), then a projection to tokens."""

    def __init__(self, mels: int, channels: int, width: int, subsampling: int) -> None:
        super().__init__()
        halvings = subsampling.bit_length() - 1
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels if step else 1, channels, 3, stride=2, padding=1) for step in range(halvings)
        )
        for _ in range(halvings):
            mels = halved(mels)
        self.project = nn.Linear(channels * mels, width)
        keep_scale(self)

    def forward(
        self, features: Float[Tensor, "b frames mels"], mask: Bool[Tensor, "b frames"]
    ) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b n"]]:
        image = features.unsqueeze(1)
        for convolution in self.convolutions:
            mask = mask[:, ::2]  # a stride of 2 centred on every second frame: ceil(frames / 2) of them
            image = nn.functional.gelu(convolution(image)) * mask[:, None, :, None]
        return self.project(image.transpose(1, 2).flatten(2)), mask


class SpeechEncoder(Encoder):
    """`LogMel`, `Masking` while training, `Front`, `Stack`."""

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        self.width = config.transformer.width
        self.features = LogMel(config.features)
        self.masking = Masking(config.masking)
        self.front = Front(config.features.mels, config.channels, self.width, config.subsampling)
        samples = round(config.longest * config.features.rate)
        context = -(-(samples // self.features.hop + 1) // config.subsampling)
        self.stack = Stack(config.transformer, context=context, scale=0.5)

    def forward(self, waveforms: Float[Tensor, "b samples"], lengths: Int[Tensor, " b"]) -> Encoded:
        """waveforms: amplitudes from -1 to 1, zeros after `lengths` samples each. ValueError past config.longest."""
        return self.encode(*self.features(waveforms, lengths))

    def encode(self, features: Float[Tensor, "b frames mels"], mask: Bool[Tensor, "b frames"]) -> Encoded:
        """The same from features already computed: a training run over a small set computes them once."""
        if self.training:
            features = self.masking(features)
        tokens, mask = self.front(features, mask)
        tokens = self.stack(tokens, mask)
        return Encoded(tokens, mean_of_real(tokens, mask), mask)


def mask_of(lengths: Int[Tensor, " b"], longest: int) -> Bool[Tensor, "b longest"]:
    """True at the first `lengths` places of each row."""
    return torch.arange(longest, device=lengths.device) < lengths.unsqueeze(1)


def halved(length: int) -> int:
    """What a 3-wide convolution of stride 2 and padding 1 leaves of `length`."""
    return (length + 1) // 2
