"""Every layout from hand-made files: whole ones, damaged ones (refused) and bad records (carried on with a problem)."""

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.data import files
from components.data.files import SourceError
from components.data.layouts import PIECE, Missing, Raw, read_idx, read_jsonl, read_tar, read_text

Change = Callable[[bytes], bytes]


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as out:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    return path


THREE = [("a.json", b'{"digit": 3}'), ("b.png", b"B"), ("a.png", b"A"), ("dir/c.seg.png", b"C")]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_tar_members_are_joined_wherever_they_stand(tmp_path: Path, pack: Change) -> None:
    path = tar(tmp_path / "x.tar", THREE)
    path.write_bytes(pack(path.read_bytes()))
    found = [
        (raw.key, sorted(raw.members), raw.find("png") if "png" in raw.members else None) for raw in read_tar([path])
    ]
    assert found == [("a", ["json", "png"], b"A"), ("b", ["png"], b"B"), ("dir/c", ["seg.png"], None)]


def test_locations_are_members_and_json_paths(tmp_path: Path) -> None:
    members = [("a.json", b'{"meta": {"digit": 3}}'), ("a.cls", b"7"), ("b.json", b"{"), ("c.json", b"\xff")]
    with tar(tmp_path / "x.tar", members).open("rb"):
        records = read_tar([tmp_path / "x.tar"])
        good = next(records)
        assert (good.find("json.meta.digit"), good.find("cls")) == (3, b"7")
        for absent in ("json.meta.other", "json.meta.digit.more", "png"):
            with pytest.raises(Missing, match=f"no {absent}"):
                good.find(absent)
        with pytest.raises(ValueError, match="json: not JSON"):
            next(records).find("json.digit")
        with pytest.raises(ValueError, match="json: not UTF-8 at byte 0"):
            next(records).find("json.digit")
    assert Raw("k", document={"a": {"b": 1}}).find("a.b") == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:700],  # inside the first member
        lambda data: data[:1536],  # at the border of two members
        lambda data: data[: 512 * 3 + 100],  # inside a header
        lambda data: data[:1024] + b"rot" + data[1027:],  # the second header: tarfile would end here without a word
        lambda data: b"not a tar at all" * 100,
        lambda data: b"",
    ],
)
def test_a_damaged_tar_is_refused(tmp_path: Path, damage: Change) -> None:
    path = tar(tmp_path / "x.tar", THREE)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SourceError, match=r"x\.tar: .*(fetch|write) "):
        list(read_tar([path]))


def test_links_and_doubles_are_problems(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as out:
        for name in ("a.png", "a.png"):
            out.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        out.addfile(link)
    assert [raw.problem for raw in read_tar([path])] == ["a.png is there twice", "b.png is a link or special file"]


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:30] + b"\0\0\0" + data[33:]])
def test_a_damaged_gzip_is_refused(tmp_path: Path, damage: Change) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(damage(gzip.compress(np.random.default_rng(0).bytes(1000).hex().encode())))
    with pytest.raises(SourceError, match=r"x\.jsonl\.gz: does not unpack"):
        list(read_jsonl([path]))


def test_a_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FREE", 0)
    path = tmp_path / "x.txt.gz"
    path.write_bytes(gzip.compress(bytes(2**24)))
    with pytest.raises(SourceError, match="a bomb"):
        list(read_text([path]))


def test_json_lines_end_at_newlines_alone(tmp_path: Path) -> None:
    lines = [
        b'{"text": "a\xe2\x80\xa8b"}',
        b"",
        b"not json",
        b'{"text": "\xff"}',
        b"[1]",
        b"[" * 100_000,
        b'{"text": 1}',
    ]
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(lines))
    records = list(read_jsonl([path]))
    assert [raw.key for raw in records] == [f"x-{number:06d}" for number in (0, 2, 3, 4, 5, 6)]
    assert records[0].find("text") == "a\u2028b"
    problems = [(raw.problem or "").split(":")[1:2] for raw in records]
    assert problems == [[], [" not JSON"], [" not UTF-8 at byte 10"], [], [" not JSON"], []]
    with pytest.raises(Missing):
        records[3].find("text")


def test_an_endless_line_is_one_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.data.layouts.LINE", 16)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'"' + b"a" * 100 + b'"\n"next"\n')
    first, second = read_jsonl([path])
    assert "longer than" in str(first.problem)
    assert (second.problem, second.document) == (None, "next")


def idx(path: Path, array: np.ndarray) -> Path:
    path.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())
    return path


def test_idx_pictures_and_labels(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (4, 5, 6), np.uint8)
    paths = [idx(tmp_path / "b-images", pictures), idx(tmp_path / "a-labels", np.arange(4, dtype=np.uint8))]
    records = list(read_idx(sorted(paths)))
    assert [raw.find("label") for raw in records] == [0, 1, 2, 3]
    for raw, picture in zip(records, pictures, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(raw.find("png")))), picture)


def test_damaged_idx_is_refused(tmp_path: Path) -> None:
    pictures, labels = np.zeros((4, 5, 6), np.uint8), np.zeros(4, np.uint8)
    good = [idx(tmp_path / "images", pictures), idx(tmp_path / "labels", labels)]
    with pytest.raises(SourceError, match="not as many pictures as labels"):
        list(read_idx([good[0], idx(tmp_path / "few", labels[:3])]))
    with pytest.raises(SourceError, match="two files"):
        list(read_idx(good[:1]))
    (tmp_path / "cut").write_bytes(good[0].read_bytes()[:-1])
    with pytest.raises(SourceError, match=r"promises \(4, 5, 6\), 120 bytes; 119 are there"):
        list(read_idx([tmp_path / "cut", good[1]]))
    (tmp_path / "huge").write_bytes(struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1))
    with pytest.raises(SourceError, match="promises"):
        list(read_idx([tmp_path / "huge", good[1]]))
    (tmp_path / "text").write_bytes(b"hello, world")
    with pytest.raises(SourceError, match="no idx file"):
        list(read_idx([tmp_path / "text", good[1]]))


@given(text=st.lists(st.sampled_from(["a", "日", "😀\n", "\r\n", "\u2028", "x" * 3000, "語" * 2000]), max_size=12))
def test_pieces_of_text_give_the_file_back(tmp_path_factory: pytest.TempPathFactory, text: list[str]) -> None:
    path = tmp_path_factory.mktemp("text") / "x.txt"
    path.write_bytes("".join(text).encode())
    pieces = list(read_text([path]))
    assert all(raw.problem is None for raw in pieces)
    assert "".join(raw.find("text") for raw in pieces) == "".join(text)
    assert all(len(raw.find("text").encode()) <= PIECE for raw in pieces)
    assert not pieces or pieces[-1].position == 1


def test_text_that_is_not_utf8_is_one_bad_piece(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"good line\n" * 1000 + b"\xff\n" + b"good line\n" * 1000)
    problems = [raw.problem for raw in read_text([path]) if raw.problem]
    assert problems == ["not UTF-8 at byte 10000 of x.txt"]


def test_json_of_any_type_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps(value) for value in (1, "a", None, [1], {"a": None})))
    assert [raw.document for raw in read_jsonl([path])] == [1, "a", None, [1], {"a": None}]
