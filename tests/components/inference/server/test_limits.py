"""Keys, rates, depth of JSON, and media that promise more than they weigh."""

import io
import json
import stat
import struct
import zlib
from pathlib import Path

import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.models import picture, sound
from components.inference.server.errors import ApiError
from components.inference.server.keys import Keys, new_key, read
from components.inference.server.limits import REMEMBERED, TokenBuckets, deeper
from components.inference.server.media import check_picture, check_sound
from components.inference.server.settings import Limits, Settings

LIMITS = Limits()


def test_a_key_is_shown_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first, second = new_key(path, "alice"), new_key(path, "bob")
    keys = Keys(path)
    assert keys.owner(first) == "alice" and keys.owner(second) == "bob"
    for wrong in ("", first[:-1], first + "x", "tsu-", read(path)["alice"], "\udcff"):
        assert keys.owner(wrong) is None
    assert first not in path.read_text() and len(first) > 40 and first != second
    assert not stat.S_IMODE(path.stat().st_mode) & 0o022
    with pytest.raises(ValueError, match="named alice already"):
        new_key(path, "alice")
    with pytest.raises(ValueError, match="name"):
        new_key(path, "../alice")


def test_a_key_that_is_taken_out_is_refused_once_the_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = new_key(path, "alice")
    keys = Keys(path)
    path.write_text("{}")
    keys.refresh()
    assert keys.owner(key) is None
    path.write_text('{"alice": "no hash"}')
    with pytest.raises(ValueError, match=r"keys\.json is no file of keys"):
        Keys(path)


def test_buckets_by_hand() -> None:
    """2 a second, 3 at once: at 0 s three pass, at 0.5 s one has come, at 10 s three."""
    buckets = TokenBuckets(2.0, 3.0)
    assert [buckets.take("a", 0.0) for _ in range(4)] == [0, 0, 0, 1]
    assert buckets.take("b", 0.0) == 0
    assert [buckets.take("a", 0.5) for _ in range(2)] == [0, 1]
    assert [buckets.take("a", 10.0) for _ in range(4)] == [0, 0, 0, 1]
    assert TokenBuckets(0.1, 1.0).take("a", 0.0) == 0
    slow = TokenBuckets(0.1, 1.0)
    slow.take("a", 0.0)
    assert slow.take("a", 0.0) == 10  # seconds


def test_buckets_do_not_grow_with_the_number_of_clients() -> None:
    buckets = TokenBuckets(1.0, 1.0)
    for i in range(REMEMBERED + 50):
        buckets.take(str(i), 0.0)
    assert len(buckets._buckets) == REMEMBERED


JSON = st.recursive(st.text('[]{}"\\a', max_size=4), lambda inner: st.lists(inner, max_size=3), max_leaves=12)


def depth(value: object) -> int:
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@settings(max_examples=300, deadline=None)
@given(JSON, st.integers(0, 4))
def test_depth_is_that_of_the_parsed_value(value: object, most: int) -> None:
    assert deeper(json.dumps(value).encode(), most) == (depth(value) > most)


def test_a_bomb_of_brackets_and_one_of_quotes_are_read_in_one_go() -> None:
    assert deeper(b"[" * 5_000_000, 32)
    assert not deeper(b'["' + b"[" * 5_000_000, 32)
    assert not deeper(b"[" + b'"\\"[" ' * 1_000_000, 32)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that promises so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pictures_pass(kind: str) -> None:
    check_picture(picture(kind=kind), LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        bomb(60_000, 60_000),
        bomb(2**31 - 1, 2**31 - 1),
        bomb(20_000, 500),
        picture()[:60],
        bomb(10, 10),
        picture(kind="GIF"),
        picture(kind="TIFF"),
        b"",
        b"<svg/>",
        sound(),
    ],
    ids=["3.6 gigapixels", "more than PIL's", "10 megapixels", "cut", "no data", "gif", "tiff", "empty", "svg", "wav"],
)
def test_pictures_are_refused(data: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        check_picture(data, LIMITS)
    assert caught.value.status == 400


def test_sounds_pass_with_their_seconds() -> None:
    assert check_sound(sound(1.5), LIMITS) == 1.5
    file = io.BytesIO()
    soundfile.write(file, [0.0] * 4800, 48000, format="OGG")
    assert check_sound(file.getvalue(), LIMITS) == pytest.approx(0.1)


def header(rate: int, channels: int = 1, bytes_: int = 2**31 - 100) -> bytes:
    """A WAV whose header promises gigabytes."""
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2, channels * 2, 16)
    start = b"RIFF" + struct.pack("<I", bytes_ + 36) + b"WAVEfmt " + struct.pack("<I", 16)
    return start + form + b"data" + struct.pack("<I", bytes_)


def odd_rate() -> bytes:
    """11,027 Hz: a filter from it to 16,000 Hz would hold 176 million taps."""
    file = io.BytesIO()
    soundfile.write(file, [0.0] * 1000, 11_027, format="WAV")
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [sound(61.0), sound(0.1, 8000, 9), odd_rate(), sound(0.0), sound()[:30], header(8000), b"", picture(), b"ID3" * 50],
    ids=["long", "channels", "rate", "no samples", "cut", "promises", "empty", "png", "mp3"],
)
def test_sounds_are_refused(data: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        check_sound(data, LIMITS)
    assert caught.value.status == 400


@pytest.mark.parametrize("field", ["threads", "slots", "timeout", "poll", "retry"])
def test_settings_out_of_range_are_refused(tmp_path: Path, field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} = 0"):
        Settings(tmp_path, **{field: type(getattr(Settings(tmp_path), field))(0)})
