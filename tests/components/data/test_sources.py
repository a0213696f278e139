"""A source's records: fields, filter, labels, and which split each belongs to."""

import json
from collections import Counter
from pathlib import Path

import pytest

from components.data.config import HeldOut, Source, World
from components.data.files import SourceError
from components.data.sources import OUT, label, records


def lines(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def source(path: Path, **more: object) -> Source:
    return Source("jsonl", str(path), fields={"text": "text"}, **more)  # type: ignore[arg-type]


def test_fields_labels_and_the_rest(tmp_path: Path) -> None:
    rows = [{"body": {"text": "hello"}, "intent": 1, "extra": [1, 2]}, {"body": {"text": 5}, "intent": 0, "extra": 0}]
    lines(tmp_path / "x", [*rows, {"intent": 1}])
    fields = {"text": "body.text", "label": "intent", "more": "extra"}
    found = [record for _, record in records(Source("jsonl", str(tmp_path / "x"), fields=fields, classes=("a", "b")))]
    assert found[0].fields == {"text": "hello", "label": "b", "more": [1, 2]}
    assert [record.problem for record in found] == [None, "text: not a text", "text: no body.text"]


def test_shares_are_seeded_hashes_that_do_not_move(tmp_path: Path) -> None:
    held = {"test": HeldOut(share=0.2), "valid": HeldOut(share=0.1)}
    path = lines(tmp_path / "x", [{"text": str(i)} for i in range(2000)])
    splits = [split for split, _ in records(source(path, held_out=held))]
    counts = Counter(splits)
    assert abs(counts["test"] - 400) < 60
    assert abs(counts["valid"] - 200) < 45
    assert splits == [split for split, _ in records(source(path, held_out=held))]
    assert splits != [split for split, _ in records(source(path, held_out=held, seed=1))]
    lines(path, [{"text": str(i)} for i in range(2500)])  # more data: what was held out stays held out
    assert splits == [split for split, _ in records(source(path, held_out=held))][:2000]


def test_groups_are_held_out_whole(tmp_path: Path) -> None:
    rows = [{"text": str(i), "who": f"p{i % 10}", "age": i % 3} for i in range(300)]
    held = {"test": HeldOut(where={"who": ("p3", "p4")}), "valid": HeldOut(share=0.4, by="who")}
    path = lines(tmp_path / "x", rows)
    config = Source("jsonl", str(path), fields={"text": "text", "who": "who"}, held_out=held, filter={"age": 1})
    split_of: dict[str, set[str]] = {}
    dropped = 0
    for split, record in records(config):
        dropped += split == OUT
        if split != OUT:
            split_of.setdefault(record.fields["who"], set()).add(split)
    assert dropped == 200
    assert all(len(splits) == 1 for splits in split_of.values())
    assert {who for who, splits in split_of.items() if splits == {"test"}} == {"p3", "p4"}
    assert set.union(*split_of.values()) == {"train", "valid", "test"}


def test_a_record_without_the_deciding_field_is_no_silent_loss(tmp_path: Path) -> None:
    path = lines(tmp_path / "x", [{"text": "a", "keep": True}, {"text": "b"}, {"text": "c", "keep": False}])
    found = [(split, record.problem) for split, record in records(source(path, filter={"keep": True}))]
    assert found == [("train", None), ("train", "no keep"), (OUT, None)]


def test_of_plain_text_the_end_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("".join(f"{i:07d}\n" for i in range(20_000)))
    held = {"test": HeldOut(share=0.1), "valid": HeldOut(share=0.2)}
    found = list(records(Source("text", str(tmp_path / "x"), held_out=held)))
    texts = {
        name: "".join(r.fields["text"] for split, r in found if split == name) for name in ("train", "valid", "test")
    }
    assert "".join(texts.values()) == (tmp_path / "x").read_text()  # in this order
    assert abs(len(texts["test"]) - 16_000) < 4100
    assert abs(len(texts["valid"]) - 32_000) < 4100


@pytest.mark.parametrize(
    ("value", "classes", "expected"),
    [(3, (), "3"), ("x ", (), "x"), (b"1\n", ("a", "b"), "b"), (1, ("a", "b"), "b"), ("a", ("a", "b"), "a")],
)
def test_labels(value: object, classes: tuple[str, ...], expected: str) -> None:
    assert label(value, classes) == expected


@pytest.mark.parametrize(
    ("value", "classes"),
    [(True, ()), (0.5, ()), (None, ()), ("", ()), (2, ("a", "b")), (-1, ("a",)), ("c", ("a", "b"))],
)
def test_no_labels(value: object, classes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="label"):
        label(value, classes)


def test_missing_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "other.txt").touch()
    for splits, path, message in [
        ({}, tmp_path / "none", "none is missing"),
        ({}, tmp_path, "is a folder: say which files"),
        ({"train": "*.jsonl"}, tmp_path, r"no file is called \*.jsonl \(split train\); there are other.txt"),
        ({"train": "*"}, tmp_path / "other.txt", "is one file"),
    ]:
        with pytest.raises(SourceError, match=message):
            list(records(source(path, splits=splits)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "world"}, "belongs to layout world"),
        ({"layout": "tar", "world": World("text", 1, 1, 1), "fields": {"image": "png"}}, "belongs to layout world"),
        ({"layout": "tar"}, "needs `fields`"),
        ({"layout": "idx", "fields": {"image": "png"}}, "leave `fields` out"),
        ({"layout": "jsonl", "fields": {"sound": "wav"}}, "come in layout tar"),
        ({"layout": "tar", "fields": {"sound": "wav", "image": "png"}}, "not both"),
        ({"layout": "text", "splits": {"test": "*"}}, "names the train files"),
        (
            {"layout": "text", "splits": {"train": "a", "test": "b"}, "held_out": {"test": HeldOut(share=0.1)}},
            "both in",
        ),
    ],
)
def test_contradictions_in_the_parameters(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Source(**{"path": "x", **arguments})


def test_held_out_is_by_value_or_share() -> None:
    for arguments in ({}, {"where": {"a": ("b",)}, "share": 0.1}):
        with pytest.raises(ValueError, match="either"):
            HeldOut(**arguments)
