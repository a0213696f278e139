"""A small DVC repository with the stages that continuous training knows by name, each a few lines: a classifier that
has learned which word means which label, in milliseconds. Git, DVC, registry, pointer and traffic database are real."""

import json
import os
import random
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from components.inference import pointer
from components.inference.experiment.assignment import assign
from components.inference.traffic import Traffic
from components.inference.traffic_tables import database
from tests.flows.tools import commit, git, repro

NAME = "text"
GRAPH = """
stages:
  ingest:
    foreach: ${sources}
    do: {cmd: "python toy.py ingest ${key}", deps: ["${item.path}", toy.py], params: ["sources.${key}"],
         outs: ["data/shards/${key}"]}
  validate:
    foreach: ${sources}
    do: {cmd: "python toy.py validate ${key}", deps: ["data/shards/${key}", toy.py], params: ["sources.${key}"],
         outs: ["data/index/${key}"]}
  mix:
    foreach: ${mix}
    do: {cmd: "python toy.py mix ${key}", params: ["mix.${key}"], outs: ["data/mixed/${key}"],
         deps: ["data/shards/${item.old}", "data/index/${item.old}",
                "data/shards/${item.new}", "data/index/${item.new}"]}
  learn:
    foreach: ${learn}
    do: {cmd: "python toy.py learn ${key}", params: ["learn.${key}"], outs: ["models/learn/${key}"],
         deps: ["data/shards/${item.source}/train", "data/index/${item.source}", toy.py]}
  drift:
    foreach: ${drift}
    do: {cmd: "python toy.py drift ${key}", params: ["drift.${key}"], outs: ["reports/drift/${key}/rows.json"],
         deps: ["${item.model}", "data/index/${item.reference}", "data/index/${item.new}"]}
  compare:
    foreach: ${compare}
    do: {cmd: "python toy.py compare ${key}", params: ["compare.${key}"], outs: ["reports/compare/${key}/gate.json"],
         deps: ["${item.champion}", "${item.challenger}",
                "data/shards/${item.frozen}/test", "data/index/${item.frozen}",
                "data/shards/${item.fresh}/test", "data/index/${item.fresh}"]}
artifacts:
  text: {path: models/learn/text, type: model}
"""
PARAMS = """
sources:
  base: {layout: jsonl, path: base.jsonl, fields: {text: text, label: label}}
mix: {}
learn:
  text: {source: base, threads: 1, device: cpu}
drift: {}
compare: {}
"""
CONTINUOUS = """
text:
  train: learn.text
  source:
    layout: jsonl
    path: incoming
    splits: {train: "*.jsonl"}
    fields: {text: text, label: label}
    held_out: {valid: {share: 0.1}, test: {share: 0.2}}
    tolerate: 0.1
  share: 0.5
  look: 0.3
  patience: 120
  window: 60
  experiment:
    primary: [{name: accepted, kind: rate, better: higher, effect: 0.2, baseline: 0.5}]
    most_users: 4000
    least_users: 50
"""
TOY = """
import json, os, sys, time
from pathlib import Path
from ruamel.yaml import YAML

stage, key = sys.argv[1:]
params = YAML(typ="safe").load(Path("params.yaml").read_text())
mine = params["sources" if stage in ("ingest", "validate") else stage][key]
while (Path(os.environ.get("HOLD", "nowhere")) / stage).exists():
    time.sleep(0.05)

def lines(path):
    path = Path(path)
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    return [line for file in files for line in file.read_text().splitlines()]

def write(folder, rows):
    Path(folder).mkdir(parents=True)
    (Path(folder) / "000000.jsonl").write_text("".join(row + "\\n" for row in rows))

def accuracy(model, source):
    known = json.loads((Path(model) / "model.json").read_text())
    rows = [json.loads(line) for line in lines(f"data/shards/{source}/test")]
    return [known.get(row["text"]) == row["label"] for row in rows]

if stage == "ingest":
    for split in ("train", "valid", "test"):
        parts = Path(mine["path"]) / split
        rows = lines(parts) if parts.is_dir() else [
            row for number, row in enumerate(lines(mine["path"])) if (number % 7 == 0) == (split == "test")]
        write(f"data/shards/{key}/{split}", [] if split == "valid" and not parts.is_dir() else rows)
elif stage == "validate":
    rows = lines(f"data/shards/{key}")
    bad = [row for row in rows if not row.startswith("{")]
    if len(bad) > mine.get("tolerate", 0) * len(rows):
        sys.exit(f"source {key}: {len(bad) / len(rows):.0%} are bad, over {mine.get('tolerate', 0):.0%}")
    Path(f"data/index/{key}").mkdir(parents=True)
    Path(f"data/index/{key}/count").write_text(str(len(rows)))
elif stage == "mix":
    for split in ("train", "valid", "test"):
        old, new = (lines(f"data/shards/{mine[side]}/{split}") for side in ("old", "new"))
        write(f"data/mixed/{key}/{split}", old + new)
elif stage == "learn":
    rows = [json.loads(line) for line in lines(f"data/shards/{mine['source']}/train")]
    known = {row["text"]: row["label"] for row in rows}
    Path(f"models/learn/{key}").mkdir(parents=True)
    Path(f"models/learn/{key}/model.json").write_text(json.dumps(known))
    Path(f"models/learn/{key}/config.json").write_text(json.dumps({"classes": sorted(set(known.values()))}))
    with open(os.environ.get("LEARNED", os.devnull), "a") as file:
        file.write("learned\\n")
elif stage == "drift":
    Path(f"reports/drift/{key}").mkdir(parents=True)
    Path(f"reports/drift/{key}/rows.json").write_text("[]")
elif stage == "compare":
    figures, reasons = {}, []
    for name in ("fresh", "frozen"):
        before, after = (accuracy(mine[side], mine[name]) for side in ("champion", "challenger"))
        champion, challenger = (sum(side) / len(side) for side in (before, after))
        gain = dict.fromkeys(("value", "low", "high"), challenger - champion)
        both = {"champion": champion, "challenger": challenger}
        figures[name] = {**both, "gain": gain, "slices": {}, "count": len(before)}
        if challenger - champion < (0.05 if name == "fresh" else -0.05):
            reasons.append(f"{name}: {challenger - champion:+.2f}")
    gate = {"passed": not reasons, "reasons": reasons, "metric": "accuracy", **figures,
            "latency": {"ratio": 1.0}, "size": {"ratio": 1.0}}
    Path(f"reports/compare/{key}").mkdir(parents=True)
    Path(f"reports/compare/{key}/gate.json").write_text(json.dumps(gate))
"""
FILES = {
    "dvc.yaml": GRAPH,
    "params.yaml": PARAMS,
    "continuous.yaml": CONTINUOUS,
    "toy.py": TOY,
    "flows/__init__.py": "",
    "flows/stages/__init__.py": "",
    "flows/stages/__main__.py": "print('fits')\n",
    ".gitignore": "/data\n/models\n/reports\n/runs\n/.store\n/incoming\n",
    ".dvcignore": "/.store\n/runs\n",
}


def words(prefix: str, count: int, wrong: bool = False) -> str:
    """Lines of distinct words, each with the label that its number gives it (or the other one)."""
    rows = [{"text": f"{prefix}{i % 40}", "label": "ab"[(i % 40 + wrong) % 2]} for i in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows)


def build(root: Path) -> None:
    """The repository with its first version deployed in .store/serving."""
    from flows.releases import registry, rollout

    for path, text in (FILES | {"base.jsonl": words("old", 200)}).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "incoming").mkdir()
    commit(root)
    git(root, "branch", "-M", "main")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # as the bridge has it
        repro(root)
    commit(root)
    registry.register(root, NAME, "main")
    rollout.deploy(root, serving(root), NAME, "v1.0.0")


def serving(root: Path) -> Path:
    return root / ".store" / "serving"


class Users(threading.Thread):
    """People who ask about new words while the circle turns: each answer by the version that the pointer gives them."""

    def __init__(self, root: Path, prefix: str = "new") -> None:
        super().__init__(daemon=True)
        self.root, self.prefix, self.ended = root, prefix, threading.Event()

    def run(self) -> None:
        rng, number = random.Random(0), 0
        with Traffic(database(serving(self.root))) as traffic:
            while not self.ended.wait(0.002):
                number += 1
                with suppress(FileNotFoundError, ValueError):
                    self._ask(traffic, f"user{number}", rng.randrange(40))

    def _ask(self, traffic: Traffic, user: str, word: int) -> None:
        now = pointer.read(pointer.place(serving(self.root), NAME))
        trial = now.challenger
        arm = assign(user, trial.experiment, trial.share) if trial else "champion"
        version: Any = trial if arm == "challenger" else now.champion
        known = json.loads((version.folder / "model.json").read_text())
        text = f"{self.prefix}{word}"
        id = traffic.record(
            user=user,
            name=NAME,
            version=version.version,
            commit=version.commit,
            role=arm,
            route="/v1/classify",
            status=200,
            seconds=0.001,
            experiment=trial.experiment if trial else None,
            input={"input": [text]},
            output={"labels": [known.get(text, "a")]},
        )
        traffic.outcome(id, "accepted", float(known.get(text, "a") == "ab"[word % 2]))

    def __enter__(self) -> "Users":
        self.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.ended.set()
        self.join()
