"""A small DVC repository with a model that can be released: sources, ingest, train, a metric, and three commits."""

import os
import shutil
from pathlib import Path

from tests.flows.tools import commit, git, repro

NAME, MODEL = "decoder", "models/decoder"
FILES = {
    "dvc.yaml": """
stages:
  ingest:
    foreach: ${sources}
    do:
      cmd: python code/ingest.py ${item.path} data/shards/${key}
      desc: take a source into shards
      deps: ["${item.path}", code/ingest.py]
      params: ["sources.${key}"]
      outs: ["data/shards/${key}"]
  train:
    cmd: python code/train.py
    desc: learn
    deps: [data/shards/world, data/extra.csv, code/train.py]
    params: [train, packages.yaml: [torch]]
    outs: [models/decoder]
    metrics: [reports/train/metrics.json]
artifacts:
  decoder: {path: models/decoder, type: model}
  missing: {path: models/missing}
""",
    "params.yaml": """
sources:
  world: {path: raw/world, url: "https://example.org/world"}
  other: {path: raw/other}
train: {rate: 0.1}
""",
    "packages.yaml": "torch: '2.11'\n",
    "code/ingest.py": """
import pathlib, shutil, sys
shutil.copytree(sys.argv[1], pathlib.Path(sys.argv[2], "train"), dirs_exist_ok=True)
""",
    "code/train.py": """
import hashlib, json, pathlib
rate = pathlib.Path("params.yaml").read_text().split("rate: ")[1].split("}")[0]
seen = pathlib.Path("data/shards/world/train/text").read_bytes() + pathlib.Path("data/extra.csv").read_bytes()
model = pathlib.Path("models/decoder")
(model / "tokenizer").mkdir(parents=True)
seed = hashlib.sha256(seen + rate.encode()).digest()
weights = [hashlib.sha256(seed + number.to_bytes(2, "big")).digest() for number in range(40_000)]
(model / "model.safetensors").write_bytes(b"".join(weights))
(model / "config.json").write_text(json.dumps({"rate": rate}))
(model / "tokenizer" / "vocabulary.txt").write_text("a\\nb\\n")
report = pathlib.Path("reports/train/metrics.json")
report.parent.mkdir(parents=True, exist_ok=True)
report.write_text(json.dumps({"loss": float(rate)}))
""",
    "raw/world/text": "one scene\n",
    "raw/other/text": "never used\n",
    ".gitignore": "/reports\n/.store\n",
}


def build(root: Path) -> None:
    """Three models: the second has another rate, the third another source text."""
    from dvc.repo import Repo

    for path, text in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "data").mkdir()
    (root / "data" / "extra.csv").write_text("a,b\n1,2\n")
    with Repo(str(root)) as repo:
        repo.add([str(root / "data" / "extra.csv")])
    release(root, "first")
    (root / "params.yaml").write_text(FILES["params.yaml"].replace("0.1", "0.2"))
    release(root, "second")
    (root / "raw" / "world" / "text").write_text("one scene\nand another\n")
    release(root, "third")


def release(root: Path, tag: str) -> None:
    """Run what is out of date, commit dvc.lock with what made it, and give the commit a (light) tag."""
    repro(root)
    commit(root)
    git(root, "tag", tag)
    kept = root / ".store" / tag  # the model as it was trained, for comparisons
    shutil.copytree(root / MODEL, kept)


def trained(root: Path, tag: str) -> dict[str, bytes]:
    """The files of a model as its stage wrote them."""
    return contents(root / ".store" / tag)


def contents(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of all files below a folder."""
    return {os.path.relpath(path, folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def set_remote(repo: Path, **settings: str) -> None:
    """A default remote, in the configuration of this clone alone: commits from before it know it too."""
    from dvc.config import Config

    with Config(str(repo / ".dvc")).edit("local") as config:
        config["remote"]["store"] = settings
        config["core"]["remote"] = "store"
