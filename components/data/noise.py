"""Noise for speech: made by a seeded generator and mixed in at a signal-to-noise ratio."""

import numpy as np


def white(count: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [count]: equal power at all frequencies."""
    return rng.standard_normal(count, np.float32)


def pink(count: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [count]: power falls as 1 / frequency, like much of what a microphone hears."""
    whole = 1 << max(count - 1, 1).bit_length()  # a transform of a prime length takes ten times as long
    spectrum = np.fft.rfft(white(whole, rng))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    return np.fft.irfft(spectrum, whole)[:count].astype(np.float32)


def mix(signal: np.ndarray, noise: np.ndarray, ratio: float) -> np.ndarray:
    """`signal` [t] plus `noise` [t], scaled so that the signal's power stands `ratio` dB above the noise's."""
    power, other = np.mean(np.square(signal)), np.mean(np.square(noise))
    return signal + noise * np.float32(np.sqrt(power / other / 10 ** (ratio / 10)))
