"""What makes a record bad: `check(record, kind)` says why, or None. Decodes as training will, within bounds."""

import io
import math

from components.data.config import Kind
from components.data.layouts import PIXELS
from components.data.records import decode_image
from components.data.shards import Record

FORMATS = ("PNG", "JPEG", "WEBP")
SECONDS = (0.1, 600.0)  # of a sound: below, no window of features fits; above, it is no utterance
WAV_UNKNOWN = (0, 2**32 - 1)  # sizes that a recorder writes which cannot seek back


def check(record: Record, kind: Kind) -> str | None:
    """Why the record is bad, if it is."""
    if record.problem is not None:
        return record.problem
    for name, value in record.fields.items():
        if name.startswith("text") and isinstance(value, str) and (problem := check_text(value)):
            return f"{name}: {problem}"
    if kind != "text" and not record.media:
        return f"empty {kind}"
    return {"image": check_image, "sound": check_sound, "text": lambda _: None}[kind](record.media or b"")


def check_text(text: str) -> str | None:
    if not text.strip():
        return "empty"
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can hold half of a surrogate pair
        return f"no Unicode at character {error.start}"
    return None


def check_image(data: bytes) -> str | None:
    """The header first: a few bytes can promise gigabytes of pixels."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            (width, height), mode = image.size, image.mode
    except Image.DecompressionBombError:  # over 179 million pixels
        return f"over {PIXELS} pixels"
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return "no picture (PNG, JPEG or WebP)"
    if width * height > PIXELS:
        return f"over {PIXELS} pixels"
    if mode == "CMYK":
        return "a CMYK picture: convert it to RGB"
    try:
        decode_image(data)
    except RuntimeError as error:
        return f"does not decode: {str(error).splitlines()[0][:200]}"
    return None


def check_sound(data: bytes) -> str | None:
    import numpy as np
    import soundfile

    if (missing := _missing_bytes(data)) > 0:
        return f"truncated: {missing} bytes are missing"
    try:
        about = soundfile.info(io.BytesIO(data))
        if not SECONDS[0] <= about.duration <= SECONDS[1]:
            return f"{about.duration:.2f} s long, not {SECONDS[0]} to {SECONDS[1]}"
        samples, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    except soundfile.LibsndfileError as error:
        return f"no sound (WAV, FLAC or OGG): {error.error_string}"
    if len(samples) < about.frames:
        return f"truncated: {len(samples)} of {about.frames} samples"
    if not math.isfinite(float(np.abs(samples).max())):
        return "samples that are no finite numbers"
    return None if samples.any() else "silence: all samples are 0"


def _missing_bytes(data: bytes) -> int:
    """How many bytes the data chunk of a WAV promises and does not have: libsndfile reads on without a word."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return 0
    offset = 12
    while offset + 8 <= len(data):
        size = int.from_bytes(data[offset + 4 : offset + 8], "little")
        if data[offset : offset + 4] == b"data":
            return 0 if size in WAV_UNKNOWN else offset + 8 + size - len(data)
        offset += 8 + size + size % 2
    return 1  # no data chunk at all
