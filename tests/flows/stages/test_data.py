"""download, ingest, validate and tokenizer as processes see them: in a folder of their own, with a params.yaml."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from components.data.config import Source
from components.data.records import Records
from flows.stages import download, ingest, runtime, tokenizer, validate

STAGES: dict[str, tuple[Any, type, str]] = {
    "download": (download, download.Params, "downloads"),
    "ingest": (ingest, Source, "sources"),
    "validate": (validate, Source, "sources"),
    "tokenizer": (tokenizer, tokenizer.Params, "tokenizer"),
}


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def params(**sections: Any) -> None:
    with open("params.yaml", "w", encoding="utf-8") as file:
        YAML().dump({"sources": {}, **sections}, file)


def run(stage: str, key: str) -> int:
    module, cls, section = STAGES[stage]
    return runtime.execute(stage, key, cls, module.cost, module.run, section)


def lines(path: str, rows: list[Any]) -> None:
    Path(path).write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))


def metrics(key: str) -> dict[str, int]:
    return json.loads(Path(f"reports/validate/{key}/metrics.json").read_text())


def contents(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


JSONL = {"layout": "jsonl", "path": "x.jsonl", "fields": {"text": "text", "label": "label"}}
ROWS = [{"text": f"text {i}", "label": ["no", "yes", "why"][i % 3]} for i in range(60)]


def test_a_set_from_lines_to_records() -> None:
    params(sources={"own": {**JSONL, "held_out": {"test": {"share": 0.2}, "valid": {"share": 0.2}}}})
    lines("x.jsonl", ROWS)
    assert run("ingest", "own") == run("validate", "own") == 0
    found = [dict(record) for split in ("train", "valid", "test")
             for record in Records(Path("data/shards/own", split), Path("data/index/own", split))]  # fmt: skip
    names = json.loads(Path("data/index/own/classes.json").read_text())
    assert names == ["no", "why", "yes"]
    assert sorted((r["text"], names[r["label"]]) for r in found) == sorted((r["text"], r["label"]) for r in ROWS)
    assert metrics("own")["records"] == 60
    assert metrics("own")["bad"] == 0
    assert Path("reports/validate/own/quarantine.jsonl").read_text() == ""


def test_bad_records_are_quarantined_with_reasons_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    bad = ["{not json\n", {"text": "", "label": "no"}, {"label": "no"}, {"text": "a", "label": 1.5}]
    lines("x.jsonl", [*ROWS, *bad])
    lines("test.jsonl", [{"text": "t", "label": "yes"}, {"text": "t", "label": "never seen"}, ROWS[0]])
    source = {**JSONL, "path": ".", "splits": {"train": "x.jsonl", "test": "test.jsonl"}}
    params(sources={"own": {**source, "tolerate": 0.1}})
    assert run("ingest", "own") == run("validate", "own") == 0
    quarantine = [json.loads(line) for line in Path("reports/validate/own/quarantine.jsonl").read_text().splitlines()]
    assert [
        (entry["split"], entry["key"], entry["reason"].split(" (")[0].split(": Expec")[0]) for entry in quarantine
    ] == [
        ("train", "x-000060", "line: not JSON"),
        ("train", "x-000061", "text: empty"),
        ("train", "x-000062", "text: no text"),
        ("train", "x-000063", "label: a label is a name or a whole number"),
        ("test", "test-000001", "unknown label never seen"),
    ]
    assert {k: metrics("own")[k] for k in ("train", "test", "bad", "repeated")} == {
        "train": 60, "test": 2, "bad": 5, "repeated": 1,
    }  # fmt: skip
    params(sources={"own": {**source, "tolerate": 0.05}})
    capsys.readouterr()
    assert run("validate", "own") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "source own: 7.46% (5 records) are bad, over 5.00%: line: not JSON" in line
    assert "quarantine.jsonl" in line


def test_an_empty_split_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    lines("x.jsonl", ROWS)
    params(sources={"own": {**JSONL, "held_out": {"test": {"where": {"label": ["maybe"]}}}}})
    assert run("ingest", "own") == 0
    assert run("validate", "own") == 1
    assert "source own: no good record in test: correct splits" in capsys.readouterr().err


def test_damaged_files_are_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with tarfile.open("x.tar", "w") as out:
        out.addfile(tarfile.TarInfo("a.png"))
    data = Path("x.tar").read_bytes()
    Path("x.tar").write_bytes(data[:512])
    Path("y.gz").write_bytes(gzip.compress(b"text\n" * 100)[:-12])
    params(sources={"cut": {"layout": "tar", "path": "x.tar", "fields": {"image": "png"}},
                    "zip": {"layout": "text", "path": "y.gz"},
                    "gone": {"layout": "text", "path": "z.txt"}})  # fmt: skip
    for key, message in {
        "cut": "x.tar: the tar file is damaged",
        "zip": "y.gz: does not unpack",
        "gone": "is missing",
    }.items():
        assert run("ingest", key) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"ingest@{key}: ")
        assert message in line
        assert not list(Path("data/shards").iterdir())  # nothing half done is left


WORLDS = {
    view: {"layout": "world", "path": "world", "seed": 1, "world": {"view": view, "train": 6, "valid": 3, "test": 3}}
    for view in ("pictures", "text", "speech")
}


@pytest.mark.parametrize("view", list(WORLDS))
def test_twice_gives_the_same_bytes(view: str) -> None:
    params(sources={"w": WORLDS[view]})
    outputs = []
    for _ in range(2):
        shutil.rmtree("data", ignore_errors=True)
        assert run("ingest", "w") == run("validate", "w") == 0
        outputs.append(contents("data") | contents("reports"))
    assert outputs[0] == outputs[1]
    assert metrics("w")["records"] == (24 if view == "text" else 12)


def test_a_rerun_by_hand_replaces_what_is_there() -> None:
    params(sources={"w": WORLDS["text"]})
    assert run("ingest", "w") == run("validate", "w") == 0
    before = contents("data")
    Path("data/shards/w/train/stray.jsonl").touch()
    assert run("ingest", "w") == run("validate", "w") == 0
    assert contents("data") == before


def test_pictures_in_idx_come_with_names() -> None:
    Path("set").mkdir()
    for split in ("train", "t10k"):
        for name, array in (("images", np.arange(48).reshape(4, 4, 3)), ("labels", np.array([1, 0, 1, 0]))):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            with gzip.open(f"set/{split}-{name}.gz", "wb") as file:
                file.write(header + array.astype(np.uint8).tobytes())
    source = {
        "layout": "idx",
        "path": "set",
        "splits": {"train": "train-*", "test": "t10k-*"},
        "classes": ["bag", "boot"],
    }
    params(sources={"f": source})
    assert run("ingest", "f") == run("validate", "f") == 0
    records = Records(Path("data/shards/f/test"), Path("data/index/f/test"))
    assert records.classes == ["bag", "boot"]
    assert records.labels.tolist() == [1, 0, 1, 0]
    assert records.kind == "image"


def test_tokenizer_over_two_sources() -> None:
    params(sources={"w": WORLDS["text"], "p": WORLDS["pictures"]},
           tokenizer={"t": {"english": "w", "japanese": "p", "vocabulary": 300}})  # fmt: skip
    for key in ("w", "p"):
        assert run("ingest", key) == run("validate", key) == 0
    assert run("tokenizer", "t") == 0
    first = contents("data/tokenizers")
    assert list(first) == ["data/tokenizers/t/tokenizer.json"]
    assert run("tokenizer", "t") == 0
    assert contents("data/tokenizers") == first
    figures = json.loads(Path("reports/tokenizer/t/metrics.json").read_text())
    assert figures["vocabulary"] == 300
    assert figures["bytes_per_token_w"] > 1.5


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        pass


def test_download_then_ingest(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Path("served").mkdir()
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as file:
        file.write("".join(json.dumps(row) + "\n" for row in ROWS).encode())
    Path("served/set.gz").write_bytes(packed.getvalue())
    right = hashlib.sha256(packed.getvalue()).hexdigest()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory="served"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/set.gz"
    params(downloads={"set": {"url": url, "sha256": right}, "other": {"url": url, "sha256": "0" * 64},
                      "file": {"url": "file:///etc/passwd", "sha256": right}},
           sources={"own": {**JSONL, "path": "data/downloads/set"}})  # fmt: skip
    try:
        assert run("download", "set") == 0
        assert run("download", "other") == 1
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert f"its sha256 is {right}, not 000" in capsys.readouterr().err
    assert run("download", "file") == 2
    assert not Path("data/downloads/other").exists()
    assert run("ingest", "own") == run("validate", "own") == 0
    assert metrics("own")["train"] == 60
