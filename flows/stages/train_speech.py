"""Trains a speech encoder under one of two heads: `class` names a whole sound, `ctc` writes down what is said.

Costs the encoder's passes over `steps * batch_size` sounds. Writes models/train_speech/RUN (weights, config.json) and
reports/train_speech/RUN (metrics.json of the validation split, curves). Looks at train and valid only.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval

from components.data.sounds_config import VaryConfig
from components.encoders.speech_config import SpeechConfig
from components.training.config import FitConfig
from flows.params import Reference, build
from flows.stages.runtime import Stage, StageError, start

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from components.data.records import Records

Batch = tuple[
    "Tensor", "Tensor", "Tensor", "Tensor"
]  # waveforms [b, samples], lengths [b], targets [b, n], lengths [b]


@dataclass(frozen=True)
class Params:
    source: Annotated[str, Reference("sources")]  # sounds with a label (class) or a text (ctc)
    head: Literal["class", "ctc"]
    encoder: SpeechConfig
    fit: FitConfig
    vary: VaryConfig = field(default_factory=VaryConfig)
    dropout: Annotated[float, Interval(ge=0.0, lt=1.0)] = 0.0  # class: share of the pooled features zeroed in training
    threads: Annotated[int, Interval(ge=1)] = 1
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def seed(self) -> int:
        return self.fit.seed


def cost(params: Params) -> str:
    seen = params.fit.steps * params.fit.batch_size * params.fit.accumulation
    return f"{params.fit.steps:,} steps over {seen:,} sounds of up to {params.encoder.longest:g} s, about 1.5 GiB"


class Hears:
    """A speech encoder with its head, ready for records. `names`: classes, or for ctc the letters (blank excluded)."""

    chunk = 32

    def __init__(self, head: str, encoder: SpeechConfig, names: list[str], dropout: float = 0.0) -> None:
        from components.encoders.classifier import Classifier
        from components.encoders.recogniser import Recogniser
        from components.encoders.speech import SpeechEncoder

        self.head, self.config, self.names = head, encoder, names
        body = SpeechEncoder(encoder)
        self.model: nn.Module
        if head == "class":
            self.model = Classifier(body, len(names), dropout)
        else:
            self.model = Recogniser(body, len(names) + 1)

    @property
    def classes(self) -> list[str]:
        return self.names

    @property
    def most(self) -> int:
        """Samples of the longest sound."""
        return round(self.config.longest * self.config.features.rate)

    def target(self, record: dict[str, Any]) -> list[int]:
        """The number of the class, or those of the letters."""
        if self.head == "class":
            return [record["label"]]
        return [self.names.index(letter) + 1 for letter in record["text"] if letter in self.names]

    def collate(self, examples: Sequence[tuple["Tensor", list[int]]]) -> Batch:
        import torch

        from components.data.sounds import pad

        sounds, targets = zip(*examples, strict=True)
        lengths = torch.tensor([len(target) for target in targets])
        rows = torch.zeros(len(targets), int(lengths.max()), dtype=torch.long)
        for row, target in zip(rows, targets, strict=True):
            row[: len(target)] = torch.tensor(target, dtype=torch.long)
        return *pad(list(sounds)), rows, lengths

    def loss(self, batch: Batch) -> "Tensor":
        import torch.nn.functional as F

        from components.encoders.recogniser import ctc_loss

        waveforms, lengths, targets, target_lengths = batch
        if self.head == "class":
            return F.cross_entropy(self.model(waveforms, lengths).float(), targets[:, 0])
        log_probabilities, frames = self.model(waveforms, lengths)
        return ctc_loss(log_probabilities, frames, targets, target_lengths)

    def classify(self, records: Sequence[dict[str, Any]]) -> "NDArray":
        """Probabilities, float [n, classes]."""
        import torch

        return torch.cat([logits.float().softmax(1).cpu() for logits in self._each(records)]).numpy()

    def transcribe(self, records: Sequence[dict[str, Any]]) -> list[str]:
        """What is said in each record's sound."""
        from components.encoders.recogniser import greedy

        letters = [row for outputs in self._each(records) for row in greedy(*outputs)]
        return ["".join(self.names[letter - 1] for letter in row) for row in letters]

    def _each(self, records: Sequence[dict[str, Any]]) -> Any:
        """The model's outputs, some records at a time."""
        import torch

        from components.data.sounds import pad, waveform

        device = next(self.model.parameters()).device
        with torch.no_grad():
            for i in range(0, len(records), self.chunk):
                rate = self.config.features.rate
                sounds = pad([waveform(r, rate, self.config.longest) for r in records[i : i + self.chunk]])
                yield self.model(*(tensor.to(device) for tensor in sounds))


class LearnToHear:
    """The head's loss; accuracy or word error rate on the validation split."""

    def __init__(self, hears: Hears, valid: Sequence[dict[str, Any]]) -> None:
        self.hears, self.model, self.valid = hears, hears.model, valid
        self.better: Literal["higher", "lower"] = "higher" if hears.head == "class" else "lower"

    def loss(self, batch: Batch) -> tuple["Tensor", dict[str, Any]]:
        return self.hears.loss(batch), {}

    def units(self, batch: Batch) -> dict[str, int]:
        features = self.hears.config.features
        return {"frames": int(batch[1].sum()) // round(features.hop * features.rate)}

    def validate(self) -> dict[str, float]:
        import numpy as np

        if self.hears.head == "class":
            labels = np.array([record["label"] for record in self.valid])
            return {"accuracy": float((self.hears.classify(self.valid).argmax(1) == labels).mean())}
        from components.evaluation.metrics import word_errors

        errors, words = word_errors([record["text"] for record in self.valid], self.hears.transcribe(self.valid))
        return {"word_error_rate": float(errors.sum() / words.sum())}


def load(folder: Path, device: "torch.device") -> Hears:
    """The model of a folder that this stage wrote, in eval mode."""
    from components.training.weights import load_config, load_weights

    config = load_config(folder)
    hears = Hears(config["head"], build("encoder", SpeechConfig, config), config["names"])
    load_weights(folder, hears.model)
    hears.model.to(device).eval()
    return hears


def run(params: Params, stage: Stage) -> None:
    from components.data.loader import Loader, Prepared
    from components.data.records import Records
    from components.data.sounds import vary, waveform
    from components.training.fit import fit
    from components.training.weights import save_model

    shards, index = (stage.root / "data" / kind / params.source for kind in ("shards", "index"))
    train, valid = (Records(shards / split, index / split) for split in ("train", "valid"))
    hears = Hears(params.head, params.encoder, names(params, train), params.dropout)
    hears.model.to(params.device)

    def prepare(record: dict[str, Any], rng: Any) -> tuple["Tensor", list[int]]:
        sound = waveform(record, params.encoder.features.rate, params.encoder.longest)
        return vary(sound, params.vary, rng, hears.most), hears.target(record)

    config = params.fit
    examples = Prepared(train, prepare)
    batches = Loader(
        examples, hears.collate, config.batch_size, config.seed, config.workers, train.sizes, config.accumulation
    )
    inputs = [folder / split for folder in (shards, index) for split in ("train", "valid")]
    history = fit(LearnToHear(hears, list(valid)), batches, config, checkpoints=stage.checkpoints(inputs))
    save_model(
        stage.model,
        hears.model,
        {"head": params.head, "encoder": asdict(params.encoder), "names": hears.names, "seed": config.seed},
    )
    history.write(stage.reports)
    stage.write_metrics(history.figures)


def names(params: Params, train: "Records") -> list[str]:
    """The classes of the source, or all letters of its training texts."""
    if params.head == "class":
        return train.classes
    letters = sorted({letter for record in train for letter in record.get("text", "")})
    if not letters:
        raise StageError(f"source {params.source} has no texts: head ctc learns from them; take head class")
    return letters


if __name__ == "__main__":
    start(__file__, Params, cost, run)
