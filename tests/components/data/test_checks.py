"""Bad pictures, sounds and texts made by hand, each with the reason that it must get."""

import io
import struct
import zlib

import numpy as np
import pytest
import soundfile
from PIL import Image

from components.data.checks import check
from components.data.shards import Record


def picture(mode: str = "RGB", form: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (*size, 4), np.uint8)
    Image.fromarray(noise).convert(mode).save(file, form)
    return file.getvalue()


def huge(side: int) -> bytes:
    """A PNG whose few bytes promise side x side pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def sound(samples: np.ndarray, form: str = "WAV", subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 8000, format=form, subtype=subtype)
    return file.getvalue()


TONE = np.sin(np.arange(4000) / 5).astype(np.float32) * 0.5


@pytest.mark.parametrize("data", [picture(), picture("L"), picture("RGBA"), picture(form="JPEG"), picture("P"),
                                  picture(form="WEBP"), picture("L", "JPEG"), picture("1")])  # fmt: skip
def test_good_pictures(data: bytes) -> None:
    assert check(Record("k", {}, data, "png"), "image") is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty image"),
        (b"GIF89a no picture", "no picture"),
        (picture()[:-20], "does not decode"),
        (picture()[:60], "does not decode"),
        (picture(form="JPEG", size=(64, 64))[:1500], "does not decode"),
        (picture("P", "GIF"), "no picture"),
        (picture("CMYK", "JPEG"), "CMYK"),
        (huge(50_000), "over 16777216 pixels"),
        (huge(5000), "over 16777216 pixels"),
    ],
)
def test_bad_pictures(data: bytes, reason: str) -> None:
    assert reason in str(check(Record("k", {}, data, "png"), "image"))


@pytest.mark.parametrize("data", [sound(TONE), sound(TONE, "FLAC"), sound(np.stack([TONE, -TONE / 2], 1)),
                                  sound(TONE, "OGG", "VORBIS"), sound(TONE, subtype="FLOAT")])  # fmt: skip
def test_good_sounds(data: bytes) -> None:
    assert check(Record("k", {}, data, "wav"), "sound") is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty sound"),
        (b"RIFF no sound", "no sound"),
        (sound(TONE)[:-1000], "truncated: 1000 bytes are missing"),
        (sound(TONE)[:30], "truncated"),
        (sound(TONE, "FLAC")[:-1000], ""),
        (sound(TONE[:400]), "0.05 s long"),
        (sound(np.zeros(4000, np.float32)), "silence"),
        (sound(np.full(4000, np.nan, np.float32), subtype="FLOAT"), "no finite numbers"),
    ],
)
def test_bad_sounds(data: bytes, reason: str) -> None:
    found = check(Record("k", {}, data, "wav"), "sound")
    assert found is not None
    assert reason in found


def test_a_recorder_that_cannot_seek_back_is_no_truncation() -> None:
    data = bytearray(sound(TONE))
    data[40:44] = b"\xff" * 4
    assert check(Record("k", {}, bytes(data), "wav"), "sound") is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"text": "good"}, None),
        ({"text": " \n"}, "text: empty"),
        ({"text": "good", "text_ja": ""}, "text_ja: empty"),
        ({"text": "\ud83d"}, "text: no Unicode at character 0"),
    ],
)
def test_texts(fields: dict[str, str], reason: str | None) -> None:
    assert check(Record("k", fields), "text") == reason


def test_the_layouts_problem_comes_first() -> None:
    assert check(Record("k", problem="no json.digit"), "image") == "no json.digit"
