"""Trains a classifier of pictures: an image encoder and a linear head.

Costs the encoder's passes over `steps * batch_size` pictures. Writes models/train_image/RUN (weights, config.json) and
reports/train_image/RUN (metrics.json of the validation split, curves). Looks at train and valid only.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval

from components.data.images_config import AugmentConfig
from components.encoders.image_config import ImageConfig, TimmConfig
from components.training.config import FitConfig
from flows.params import Reference, build
from flows.stages.runtime import Stage, start

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from components.data.loader import Loader
    from components.encoders.classifier import Classifier


@dataclass(frozen=True)
class Params:
    source: Annotated[str, Reference("sources")]  # pictures with a label
    encoder: ImageConfig | TimmConfig  # the own stack, or timm's by name
    fit: FitConfig
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    dropout: Annotated[float, Interval(ge=0.0, lt=1.0)] = 0.0  # share of the pooled features zeroed in training
    smoothing: Annotated[float, Interval(ge=0.0, lt=1.0)] = 0.0  # probability spread evenly over all classes
    threads: Annotated[int, Interval(ge=1)] = 1
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def seed(self) -> int:
        return self.fit.seed


def cost(params: Params) -> str:
    seen = params.fit.steps * params.fit.batch_size * params.fit.accumulation
    return f"{params.fit.steps:,} steps over {seen:,} pictures of {params.encoder.size} pixels, about 1 GiB"


class ClassifyPictures:
    """Cross-entropy on labels; accuracy on the validation split."""

    better: Literal["higher"] = "higher"

    def __init__(self, model: "Classifier", valid: "Loader", smoothing: float) -> None:
        self.model, self.valid, self.smoothing = model, valid, smoothing

    def loss(self, batch: tuple["Tensor", "Tensor"]) -> tuple["Tensor", dict[str, Any]]:
        import torch.nn.functional as F

        from components.data.images import unit

        images, labels = batch
        return F.cross_entropy(self.model(unit(images)).float(), labels, label_smoothing=self.smoothing), {}

    def validate(self) -> dict[str, float]:
        import torch.nn.functional as F

        from components.data.images import unit
        from components.training.device import move

        device = next(self.model.parameters()).device
        right, loss, count = 0, 0.0, 0
        for batch in self.valid.in_order():
            images, labels = move(batch, device)
            logits = self.model(unit(images)).float()
            right += int((logits.argmax(1) == labels).sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            count += len(labels)
        return {"accuracy": right / count, "loss": loss / count}


class PictureClassifier:
    """A trained classifier, ready for records."""

    def __init__(self, model: "Classifier", size: int, classes: list[str], device: "torch.device") -> None:
        self.model, self.size, self.classes, self.device = model, size, classes, device

    def classify(self, records: Sequence[dict[str, Any]]) -> "NDArray":
        """Probabilities, float [n, classes]."""
        import torch

        from components.data.images import picture, unit

        with torch.no_grad():
            parts = [
                self.model(unit(torch.stack([picture(r, self.size) for r in records[i : i + 256]])).to(self.device))
                for i in range(0, len(records), 256)
            ]
        return torch.cat(parts).float().softmax(1).cpu().numpy()


def load(folder: Path, device: "torch.device") -> PictureClassifier:
    """The model of a folder that this stage wrote, in eval mode."""
    from components.training.weights import load_config, load_weights

    config = load_config(folder)
    encoder = build("encoder", ImageConfig | TimmConfig, config)  # type: ignore[arg-type]  # a union is no class
    model = make(encoder, len(config["classes"]), 0.0)
    load_weights(folder, model)
    return PictureClassifier(model.to(device).eval(), encoder.size, config["classes"], device)


def make(encoder: ImageConfig | TimmConfig, classes: int, dropout: float) -> "Classifier":
    from components.encoders.classifier import Classifier
    from components.encoders.image import image_encoder

    return Classifier(image_encoder(encoder), classes, dropout)


def run(params: Params, stage: Stage) -> None:
    import torch

    from components.data.images import picture, vary
    from components.data.loader import Loader, Prepared
    from components.data.records import Records
    from components.training.fit import fit
    from components.training.weights import save_model

    shards, index = (stage.root / "data" / kind / params.source for kind in ("shards", "index"))
    train, valid = (Records(shards / split, index / split) for split in ("train", "valid"))

    def prepare(record: dict[str, Any], rng: Any) -> tuple["Tensor", int]:
        return vary(picture(record, params.encoder.size), params.augment, rng), record["label"]

    def collate(examples: list[tuple["Tensor", int]]) -> tuple["Tensor", "Tensor"]:
        images, labels = zip(*examples, strict=True)
        return torch.stack(images), torch.tensor(labels)

    config = params.fit
    batches = Loader(Prepared(train, prepare), collate, config.batch_size, config.seed, config.workers)
    model = make(params.encoder, len(train.classes), params.dropout).to(params.device)
    task = ClassifyPictures(model, Loader(Prepared(valid, prepare), collate, 256, config.seed), params.smoothing)
    inputs = [folder / split for folder in (shards, index) for split in ("train", "valid")]
    history = fit(task, batches, config, checkpoints=stage.checkpoints(inputs))
    save_model(stage.model, model, {"encoder": asdict(params.encoder), "classes": train.classes, "seed": config.seed})
    history.write(stage.reports)
    stage.write_metrics(history.figures)


if __name__ == "__main__":
    start(__file__, Params, cost, run)
