"""New data from a folder and from a bucket: taken in whole, named by content, and seen by what has changed."""

import hashlib
import os
from pathlib import Path

import pytest

from flows.continuous import incoming
from flows.workspace import Refused
from tests.flows.releases.test_remotes import s3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "a.jsonl").write_text("one\n")
    (tmp_path / "in" / "deep" / "b.jsonl").write_text("two\n")
    return tmp_path / "in"


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_folder_is_taken_in_and_named_by_what_it_holds(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    state = incoming.take(str(folder), store)
    assert files(store / state) == files(folder)
    assert incoming.seen(store)[incoming.arrived(str(folder))] == state
    os.utime(folder / "a.jsonl", (1, 1))
    assert incoming.arrived(str(folder)) not in incoming.seen(store), "a look tells files apart by their times"
    assert incoming.take(str(folder), store) == state, "what they hold is the same"
    (folder / "a.jsonl").write_text("another\n")
    other = incoming.take(str(folder), store)
    assert other != state
    assert files(store / other) == files(folder)
    assert {path.name for path in store.iterdir()} == {other, "seen.json"}, "the copy before is gone"


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def test_files_of_records_that_are_known_are_left_out_whatever_their_names(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    (folder / "a again.jsonl").write_text("one\n")
    (folder / "one.txt").write_text("one\n")  # no file of records: they may name it
    state = incoming.take(str(folder), store, ["**/*.jsonl"], {md5("one\n")})
    assert files(store / state) == {"deep/b.jsonl": "two\n", "one.txt": "one\n"}
    assert incoming.take(str(folder), store, ["**/*.jsonl"], {md5("one\n"), md5("two\n")}) == ""
    assert incoming.seen(store)[incoming.arrived(str(folder))] == "", "looked at, and nothing was new"
    assert incoming.take(str(folder), store, ["**/*.jsonl"]) != "", "it is not known any more"


def test_what_is_still_being_written_is_not_there(folder: Path) -> None:
    before = incoming.arrived(str(folder))
    (folder / ".c.jsonl").write_text("half of a li")
    assert incoming.arrived(str(folder)) == before
    (folder / ".c.jsonl").rename(folder / "c.jsonl")
    assert incoming.arrived(str(folder)) != before


def test_a_single_file_is_a_source_too(folder: Path, tmp_path: Path) -> None:
    state = incoming.take(str(folder / "a.jsonl"), tmp_path / "store")
    assert files(tmp_path / "store" / state) == {"a.jsonl": "one\n"}


def test_nothing_is_no_state_and_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", tmp_path / "missing"):
        assert incoming.arrived(str(source)) == ""
        assert incoming.take(str(source), tmp_path / "store") == ""
    with pytest.raises(Refused, match="no such kind of address"):
        incoming.take("gopher://somewhere/data", tmp_path / "store")


def test_a_bucket_is_read_as_a_folder_is(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    with s3(tmp_path) as settings:
        client = boto3.client(
            "s3",
            endpoint_url=settings["endpointurl"],
            region_name="us-east-1",
            aws_access_key_id="someone",
            aws_secret_access_key="secret",
        )
        for name in ("a.jsonl", "deep/b.jsonl"):
            client.upload_file(str(folder / name), "models", f"new/{name}")
        monkeypatch.setenv("AWS_ENDPOINT_URL", settings["endpointurl"])
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        source, store = "s3://models/new", tmp_path / "store"
        before = incoming.arrived(source)
        assert incoming.take(source, store) == incoming.take(str(folder), tmp_path / "other")
        assert incoming.arrived(source) == before
        client.put_object(Bucket="models", Key="new/c.jsonl", Body=b"three\n")
        assert incoming.arrived(source) != before
        state = incoming.take(source, store)
        assert files(store / state)["c.jsonl"] == "three\n"
