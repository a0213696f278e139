"""Captions spoken by espeak-ng (Dunn et al.), whose library and voices the package espeakng-loader carries.

Distinctive: espeak-ng keeps state from one utterance to the next (flutter, filters), even across its own
re-initialisation, so that what it says would depend on what it said before: voices set in turn break three utterances
in 170. Each utterance is therefore spoken in a forked copy of a library that has done nothing yet, a pure function of
text, voice, speed and pitch. An utterance takes 20 ms of a core.

Voices are kept apart: the ones of valid and test are heard nowhere in train. Test speech carries noise besides.
"""

import ctypes
import io
import math
import os
import wave
from dataclasses import dataclass
from functools import cache

import numpy as np

from components.data.noise import mix, pink
from components.data.world.scenes import Scene

NATIVE = 22050  # Hz, what espeak-ng speaks
VOICES = {  # accent + variant
    "train": tuple(
        f"{accent}+{variant}"
        for accent in ("en", "en-us")
        for variant in ("m1", "m2", "m3", "m4", "m7", "f1", "f2", "f3", "Annie", "Gene", "Michael")
    ),
    "valid": ("en+m8", "en-us+linda"),
    "test": ("en+m6", "en+f4", "en+steph", "en-us+m5", "en-us+f5", "en-us+paul"),
}
SPEED, PITCH = (160, 220), (35, 65)  # words a minute; 50 is the voice's own pitch
FAILED, NO_VOICE = 1, 2  # exit statuses of the forked speaker
_SYNCHRONOUS, _RATE, _PITCH, _UTF8 = 2, 1, 3, 1  # constants of speak_lib.h


@dataclass(frozen=True)
class Utterance:
    wav: bytes  # 16-bit mono
    voice: str


def speak(scene: Scene, text: str, rate: int, noise: float, rng: np.random.Generator) -> Utterance:
    """The text in a voice of the scene's split at `rate` Hz; in test, `noise` dB above pink noise."""
    voices = VOICES[scene.split]
    voice = voices[rng.integers(len(voices))]
    samples = synthesize(text, voice, int(rng.integers(*SPEED)), int(rng.integers(*PITCH)))
    samples = resample(samples, rate)
    if scene.split == "test":
        samples = mix(samples, pink(len(samples), rng), noise)
    samples = samples * (0.9 / np.abs(samples).max()) if np.abs(samples).max() > 0.9 else samples
    return Utterance(_wav(samples, rate), voice)


def synthesize(text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    """float32 [samples] in -1..1 at 22,050 Hz. Raises ValueError for a voice that espeak-ng does not have."""
    library = _library()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = FAILED
        try:
            os.close(reader)
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                os._exit(NO_VOICE)
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(_say(library, text, speed, pitch))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == NO_VOICE:
        raise ValueError(f"espeak-ng has no voice {voice!r}")
    if status != 0 or not data:
        raise RuntimeError(f"espeak-ng did not speak {text!r} with the voice {voice!r}")
    return np.frombuffer(data, np.int16).astype(np.float32) / 32768


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """From 22,050 Hz to a lower `rate`: the spectrum is cut off, after padding to one that maps onto whole ones."""
    whole = NATIVE // math.gcd(NATIVE, rate)
    samples = np.pad(samples, (0, -len(samples) % whole))
    count = len(samples) * rate // NATIVE
    return (np.fft.irfft(np.fft.rfft(samples)[: count // 2 + 1], count) * (count / len(samples))).astype(np.float32)


@cache
def _library() -> ctypes.CDLL:
    """espeak-ng, initialised and silent: it never speaks in this process."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    if library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0) != NATIVE:
        raise RuntimeError("espeak-ng does not start: reinstall the package espeakng-loader")
    return library


def _say(library: ctypes.CDLL, text: str, speed: int, pitch: int) -> bytes:
    parts: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def keep(samples, count, _events) -> int:  # called by C
        if samples and count > 0:
            parts.append(ctypes.string_at(samples, 2 * count))
        return 0

    library.espeak_SetSynthCallback(keep)
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    library.espeak_SetParameter(_RATE, speed, 0)
    library.espeak_SetParameter(_PITCH, pitch, 0)
    data = text.encode()
    library.espeak_Synth(data, len(data) + 1, 0, 0, 0, _UTF8, None, None)
    return b"".join(parts)


def _wav(samples: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, rate, 0, "NONE", ""))
        out.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()
