import io
import json
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from components.data import shards as module
from components.data.records import Records, decode_image
from components.data.shards import Record, ShardWriter, walk
from components.data.validation import validate


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 4), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write(folder: Path, records: list[Record], text: bool = False) -> Path:
    writer = ShardWriter(folder, text)
    for record in records:
        writer.write(record)
    writer.close()
    return folder


def pictures(count: int) -> list[Record]:
    return [Record(f"dir/k{i}", {"label": str(i % 3), "text": f"丸 {i}"}, png(i), "png") for i in range(count)]


def test_records_come_back(tmp_path: Path) -> None:
    write(tmp_path / "shards" / "train", pictures(7))
    for split in ("valid", "test"):
        write(tmp_path / "shards" / split, [])
    validate(tmp_path / "shards", tmp_path / "index", "image", ())
    records = Records(tmp_path / "shards" / "train", tmp_path / "index" / "train")
    assert len(records) == 7
    assert records[4] == {"key": "dir/k4", "label": 1, "text": "丸 4", "image": png(4)}
    assert records.classes == ["0", "1", "2"]
    assert records.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert records.sizes.tolist() == [len(png(i)) for i in range(7)]
    assert decode_image(records[4]["image"])[:, 0, 0].tolist() == [4, 0, 0]
    assert len(Records(tmp_path / "shards" / "test", tmp_path / "index" / "test")) == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its file open
def test_webdataset_reads_the_same(tmp_path: Path) -> None:
    write(tmp_path / "s", pictures(5))
    samples = list(webdataset.WebDataset(str(tmp_path / "s" / "000000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"dir/k{i}" for i in range(5)]
    assert samples[3]["png"] == png(3)
    assert json.loads(samples[3]["json"]) == {"key": "dir/k3", "label": "0", "text": "丸 3"}


def test_bytes_depend_on_the_records_alone(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, pictures(5)) / "000000.tar" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_a_full_shard_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 5000)
    folder = write(tmp_path / "s", pictures(9))
    files = sorted(folder.iterdir())
    assert len(files) > 1
    assert all(file.stat().st_size <= 5000 + 1024 for file in files)
    assert [place.record.key for file in files for place in walk(file)] == [f"dir/k{i}" for i in range(9)]


def test_texts_with_other_line_breaks_and_bad_records(tmp_path: Path) -> None:
    texts = ["a\u2028b", "c\r\nd", "e\x85f", "\ud800"]
    records = [Record(str(i), {"text": text}, problem="broken" if i == 1 else None) for i, text in enumerate(texts)]
    places = list(walk(write(tmp_path / "s", records, text=True) / "000000.jsonl"))
    assert [place.record.fields["text"] for place in places] == texts
    assert [place.record.problem for place in places] == [None, "broken", None, None]
    data = (tmp_path / "s" / "000000.jsonl").read_bytes()
    assert all(json.loads(data[p.fields : p.fields + p.fields_size])["text"] == p.record.fields["text"] for p in places)


def test_an_index_that_is_missing_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the stage validate"):
        Records(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("L", 9, [9, 9, 9]),
        ("LA", (9, 0), [255] * 3),
        ("RGBA", (0, 0, 100, 51), [204, 204, 224]),
        ("I;16", 514, [2] * 3),
    ],
)
def test_every_kind_of_png_becomes_rgb(mode: str, pixel: int, expected: list[int]) -> None:
    file = io.BytesIO()
    Image.new(mode, (3, 2), pixel).save(file, "PNG")
    image = decode_image(file.getvalue())
    assert image.shape == (3, 2, 3)
    assert image.dtype.is_floating_point is False
    np.testing.assert_array_equal(image[:, 1, 1].numpy(), expected)
