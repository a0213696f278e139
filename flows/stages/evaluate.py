"""Judges a trained model on the test split: the only stage that opens one, and it reads it once.

Costs a pass of the model over the test split and a linear floor fitted on train and valid: seconds to a minute.
Writes reports/evaluate/RUN/: results.json (rows of summary.json), metrics.json, figure.png, and about.json (samples,
and the training's curves for the report). No times: the same model and data give the same bytes.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval

from flows.params import Reference
from flows.stages.runtime import Stage, StageError, model_hash, start, write_atomically

if TYPE_CHECKING:
    import torch

    from components.evaluation.floors import Splits
    from components.evaluation.results import Judgement


@dataclass(frozen=True)
class Params:
    stage: Literal["train_image", "finetune_text", "train_speech", "train_clip", "train_decoder"]  # made the model
    run: Annotated[str, Reference("{stage}")]  # key of that stage
    source: Annotated[str, Reference("sources")]  # whose test split is read
    task: Literal["classification", "transcription", "retrieval", "language"]
    caption: str = "text"  # retrieval: the field with the caption
    candidates: Annotated[int, Interval(ge=2)] = 100  # retrieval: captions among which one is found
    samples: Annotated[int, Interval(ge=100, le=100_000)] = 1000  # of the bootstrap
    seed: Annotated[int, Interval(ge=0)] = 0  # of the bootstrap and of sampled text
    threads: Annotated[int, Interval(ge=1)] = 1
    device: Literal["cpu", "cuda"] = "cpu"


def cost(params: Params) -> str:
    return f"about a minute and 2 GiB: {params.stage}@{params.run} and a linear floor on {params.source}"


def run(params: Params, stage: Stage) -> None:
    from components.data.records import Records
    from components.evaluation.floors import Splits
    from components.evaluation.results import metrics, rows

    folder = stage.root / "models" / params.stage / params.run
    shards, index = (stage.root / "data" / kind / params.source for kind in ("shards", "index"))
    splits = Splits(*(Records(shards / split, index / split) for split in ("train", "valid", "test")))
    print(f"{stage}: {len(splits.test)} test records, floor on {len(splits.train)} + {len(splits.valid)}")
    try:
        judgement = judge(params, folder, splits)
    except ValueError as error:
        raise StageError(str(error)) from error
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = rows(judgement.results, params.stage, params.source, "test", config["seed"])
    for row in found:
        print(
            f"{stage}: {row['metric']} {row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}], "
            f"floor {row['floor']:.4f}, chance {row['chance']:.4f}, {row['count']} units"
        )
    judgement.figure.savefig(stage.reports / "figure.png", dpi=110, metadata={"Software": None})
    about = {
        **{name: getattr(params, name) for name in ("stage", "run", "source", "task")},
        "model": model_hash(folder),
        "recipe": _digest({name: value for name, value in config.items() if name != "seed"}),
        "samples": judgement.samples,
        "curves": _curves(stage.root / "reports" / params.stage / params.run / "curves.jsonl"),
    }
    for name, content in (("results.json", found), ("about.json", about)):
        write_atomically(stage.reports / name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    stage.write_metrics(metrics(judgement.results))


def _digest(config: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def _curves(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def judge(params: Params, folder: Path, splits: "Splits") -> "Judgement":
    """Load the model and ask the judge of its task. Imports no more than this task needs."""
    import torch

    device = torch.device(params.device)
    if params.task == "classification":
        from flows.stages.judges import classification

        return classification.judge(_classifier(params.stage, folder, device), splits, params.samples, params.seed)
    if params.task == "transcription":
        from flows.stages import train_speech
        from flows.stages.judges import transcription

        return transcription.judge(train_speech.load(folder, device), splits, params.samples, params.seed)
    if params.task == "retrieval":
        from flows.stages import train_clip
        from flows.stages.judges import retrieval

        return retrieval.judge(
            train_clip.load(folder, device),
            splits,
            params.samples,
            params.seed,
            params.caption,
            params.candidates,
        )
    from flows.stages import train_decoder
    from flows.stages.judges import language

    return language.judge(train_decoder.load(folder, device), splits, params.samples, params.seed)


def _classifier(stage: str, folder: Path, device: "torch.device") -> Any:
    if stage == "train_image":
        from flows.stages.train_image import load
    elif stage == "finetune_text":
        from flows.stages.finetune_text import load
    else:
        from flows.stages.train_speech import load
    return load(folder, device)


if __name__ == "__main__":
    start(__file__, Params, cost, run)
