"""Validation of a source's shards: the good records are indexed, the bad ones listed with reasons."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from components.data.checks import check
from components.data.config import Kind
from components.data.records import CLASSES, INDEX, SHARDS
from components.data.shards import SPLITS, walk


@dataclass
class Findings:
    counts: dict[str, int] = field(default_factory=dict)  # good records by split
    quarantine: list[dict[str, str]] = field(default_factory=list)  # split, shard, key, reason
    bytes: int = 0  # of all good pictures, sounds and texts
    repeated: int = 0  # good records of valid and test whose content stands in train, too
    classes: list[str] = field(default_factory=list)

    @property
    def bad_share(self) -> float:
        return len(self.quarantine) / max(1, len(self.quarantine) + sum(self.counts.values()))


def validate(shards: Path, index: Path, kind: Kind, classes: tuple[str, ...]) -> Findings:
    """Reads `shards`/{train,valid,test} and writes `index`/{train,valid,test} and, for labelled records, the classes:
    the stated ones, or all that train has."""
    findings = Findings()
    known = _Classes(list(classes))
    seen: set[bytes] = set()
    for split in SPLITS:
        rows, labels = [], []
        for row, label, content in _good(shards / split, split, kind, known, findings):
            rows.append(row)
            labels.append(label)
            findings.repeated += split != "train" and content in seen
            if split == "train":
                seen.add(content)
        if split == "train":
            known.close(label for label in labels if label is not None)
        _write(index / split, rows, known.numbers(labels), kind, shards / split)
        findings.counts[split] = len(rows)
    findings.classes = known.names
    if known.names:
        (index / CLASSES).write_text(json.dumps(known.names, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    return findings


class _Classes:
    """The known classes; without stated ones those of train, in the order of their names (numbers by value)."""

    def __init__(self, names: list[str]):
        self.names, self.open = names, not names

    def close(self, labels: Iterator[str]) -> None:
        if self.open:
            names = set(labels)
            self.names = sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
            self.open = False

    def numbers(self, labels: list[str | None]) -> list[int]:
        number = {name: number for number, name in enumerate(self.names)}
        return [-1 if label is None else number[label] for label in labels]


def _good(
    folder: Path, split: str, kind: Kind, known: _Classes, findings: Findings
) -> Iterator[tuple[tuple[int, ...], str | None, bytes]]:
    """Index row (without label), label, and a digest of the content for each good record; notes the bad ones."""
    for number, shard in enumerate(_shards(folder)):
        for place in walk(shard):
            record = place.record
            reason, label = check(record, kind), record.fields.get("label")
            if reason is None and label is not None and not known.open and label not in known.names:
                reason = f"unknown label {label}"
            if reason is not None:
                bad = {"split": split, "shard": shard.name, "key": record.key, "reason": reason}
                findings.quarantine.append(bad)
                continue
            content = record.media or record.fields["text"].encode()
            findings.bytes += len(content)
            row = (number, place.media, place.media_size, place.fields, place.fields_size)
            yield row, label, hashlib.blake2b(content, digest_size=8).digest()


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def _write(folder: Path, rows: list[tuple[int, ...]], labels: list[int], kind: Kind, shards: Path) -> None:
    folder.mkdir(parents=True)
    table = np.empty((len(rows), 6), np.int64)
    if rows:
        table[:, :5], table[:, 5] = rows, labels
    np.save(folder / INDEX, table, allow_pickle=False)
    about = {"kind": kind, "shards": [shard.name for shard in _shards(shards)]}
    (folder / SHARDS).write_text(json.dumps(about, indent=0) + "\n")
