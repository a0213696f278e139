"""Thumbs become lines that ingest takes in: pairs where a prompt has both, and every judged answer."""

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from components.data.config import Source
from components.data.records import Records
from components.inference.traffic import Traffic
from flows.continuous.preferences import export
from flows.stages import ingest, runtime, validate


def ask(traffic: Traffic, asked: object, answered: object, thumb: int | None, name: str = "decoder") -> None:
    id = traffic.record(
        user="u", name=name, version="v1", commit="c", role="champion", route="/", status=200, seconds=0.1, input=asked,
        output=answered,
    )  # fmt: skip
    if thumb is not None:
        traffic.feedback(id, thumb)


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    hello = {"messages": [["user", "hello"]]}
    with Traffic(f"sqlite:///{tmp_path / 'traffic.db'}") as traffic:
        for text, thumb in (("good day", 1), ("go away", -1), ("never judged", None), ("no", -1), ("good day", 1)):
            ask(traffic, hello, {"text": text, "finish": "stop"}, thumb)
        ask(traffic, {"prompt": "once"}, {"text": "upon 一度"}, 1)
        ask(traffic, {"input": ["which colour?"]}, {"labels": ["red"], "shares": [0.9]}, -1)
        ask(traffic, {"sound": {"sha256": "0"}}, {"text": "heard"}, 1)
        ask(traffic, {"prompt": "other"}, {"text": "model"}, 1, name="other")
        traffic.flush()
        assert export(traffic, "decoder", tmp_path / "out") == (2, 6)
    return tmp_path / "out"


def test_pairs_are_of_one_prompt_and_thumbs_are_all(exported: Path) -> None:
    pairs, thumbs = (
        [json.loads(line) for line in (exported / f"{name}.jsonl").read_text().splitlines()]
        for name in ("pairs", "thumbs")
    )
    assert pairs == [
        {"prompt": "user: hello", "chosen": "good day", "rejected": "go away"},
        {"prompt": "user: hello", "chosen": "good day", "rejected": "no"},
    ]
    assert {"prompt": "once", "answer": "upon 一度", "thumb": 1} in thumbs
    assert {"prompt": "which colour?", "answer": "red", "thumb": -1} in thumbs
    assert len(thumbs) == 6


def test_ingest_takes_them(exported: Path) -> None:
    sources = {
        "pairs": {"layout": "jsonl", "path": "out/pairs.jsonl",
                  "fields": {"text": "prompt", "chosen": "chosen", "rejected": "rejected"}},
        "thumbs": {"layout": "jsonl", "path": "out/thumbs.jsonl",
                   "fields": {"text": "prompt", "answer": "answer", "thumb": "thumb"}},
    }  # fmt: skip
    with open("params.yaml", "w") as file:
        YAML().dump({"sources": sources}, file)
    for key in sources:
        for name, module in (("ingest", ingest), ("validate", validate)):
            assert runtime.execute(name, key, Source, module.cost, module.run, "sources") == 0
    (first, *_) = Records(Path("data/shards/pairs/train"), Path("data/index/pairs/train"))
    assert (first["text"], first["chosen"], first["rejected"]) == ("user: hello", "good day", "go away")
    assert (
        sum(record["thumb"] for record in Records(Path("data/shards/thumbs/train"), Path("data/index/thumbs/train")))
        == 0
    )
