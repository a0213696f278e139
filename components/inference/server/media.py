"""Pictures and sounds from strangers: what the header promises is checked before anything is decoded.

A picture of a few kilobytes can unfold to gigabytes of pixels, and a sound with an odd rate makes a resampler build a
filter of gigabytes. What passes is decoded once here, so that a broken file is the sender's error and reaches no batch.
"""

import io
import warnings

from components.inference.server.errors import ApiError
from components.inference.server.settings import Limits

PICTURES = ("PNG", "JPEG", "WEBP")
RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000)  # Hz


def check_picture(data: bytes, limits: Limits) -> None:
    """Raise ApiError unless the bytes are a picture that can be decoded within the limits."""
    from PIL import Image, UnidentifiedImageError

    from components.data.records import decode_image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
            with Image.open(io.BytesIO(data), formats=PICTURES) as picture:
                width, height = picture.size
    except Image.DecompressionBombError:
        raise ApiError(400, f"The picture has more than {limits.pixels:,} pixels.", "too_large", "image") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise ApiError(400, f"The file is no picture of {', '.join(PICTURES)}.", "invalid_image", "image") from None
    if width * height > limits.pixels:
        raise ApiError(
            400, f"The picture has {width} x {height} pixels; {limits.pixels:,} are allowed.", "too_large", "image"
        )
    try:
        decode_image(data)
    except RuntimeError:
        raise ApiError(400, "The picture is damaged.", "invalid_image", "image") from None


def check_sound(data: bytes, limits: Limits) -> float:
    """Seconds of a sound. ApiError unless the bytes are one that can be decoded within the limits."""
    import soundfile

    from components.data.records import decode_sound

    try:
        about = soundfile.info(io.BytesIO(data))
    except (soundfile.LibsndfileError, TypeError, ValueError):
        raise ApiError(400, "The file is no sound of WAV, FLAC or OGG.", "invalid_audio", "file") from None
    if about.samplerate not in RATES or about.channels > limits.channels:
        raise ApiError(
            400,
            f"The sound has {about.channels} channels at {about.samplerate} Hz; up to {limits.channels} are read, at "
            + ", ".join(map(str, RATES)),
            "invalid_audio",
            "file",
        )
    seconds = about.frames / about.samplerate
    if not 0 < seconds <= limits.sound_seconds:
        raise ApiError(
            400, f"The sound lasts {seconds:.1f} s; above 0 and up to {limits.sound_seconds:g} s are read.",
            "too_large", "file",
        )  # fmt: skip
    try:
        samples, _ = decode_sound(data)
    except (soundfile.LibsndfileError, RuntimeError):
        raise ApiError(400, "The sound is damaged.", "invalid_audio", "file") from None
    if not len(samples):
        raise ApiError(400, "The sound is empty.", "invalid_audio", "file")
    return seconds
