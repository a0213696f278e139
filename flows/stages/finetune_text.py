"""Fine-tunes a pre-trained text encoder to classify texts, with a linear head on the mean of its tokens.

Costs the encoder's passes over `steps * batch_size` texts. Writes models/finetune_text/RUN (weights, config.json,
tokenizer.json) and reports/finetune_text/RUN (metrics.json of the validation split, curves). The tokenizer and the
encoder's shape are the pre-training's. Looks at train and valid only.
"""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval

from components.encoders.text_config import TextConfig
from components.training.config import FitConfig
from flows.params import Reference, build
from flows.stages.runtime import Stage, StageError, start

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from tokenizers import Tokenizer
    from torch import Tensor

    from components.data.loader import Loader
    from components.data.text import LabelledBatch, LabelledRows, Rows
    from components.encoders.classifier import Classifier


@dataclass(frozen=True)
class Params:
    source: Annotated[str, Reference("sources")]  # texts with a label; longer ones lose what exceeds the context
    pretrained: Annotated[str, Reference("pretrain_text")]  # key of the stage that made the encoder
    fit: FitConfig
    dropout: Annotated[float, Interval(ge=0.0, lt=1.0)] = 0.1  # share of features zeroed: encoder and pooled vector
    hidden: Annotated[float, Interval(ge=0.0, lt=1.0)] = 0.0  # share of a text's tokens that training hides
    smoothing: Annotated[float, Interval(ge=0.0, lt=1.0)] = 0.0  # probability spread evenly over all classes
    agreement: Annotated[float, Interval(ge=0.0, le=100.0)] = 0.0  # weight of R-Drop; above 0 each text is read twice
    threads: Annotated[int, Interval(ge=1)] = 1
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def seed(self) -> int:
        return self.fit.seed


def cost(params: Params) -> str:
    texts = params.fit.steps * params.fit.batch_size * params.fit.accumulation
    return f"{params.fit.steps:,} steps over {texts:,} texts, about 1 GiB"


class ClassifyTexts:
    """Cross-entropy on labels, with R-Drop; accuracy on the validation split.

    R-Drop (Liang et al. 2021, "R-Drop: Regularized dropout for neural networks", eq. 4) reads each text twice: what two
    draws of dropout make of it shall agree. The paper's alpha is twice `agreement`, as it adds the two cross-entropies.
    """

    better: Literal["higher"] = "higher"

    def __init__(self, model: "Classifier", valid: "Loader", smoothing: float, agreement: float) -> None:
        self.model, self.valid, self.smoothing, self.agreement = model, valid, smoothing, agreement

    def loss(self, batch: "LabelledBatch") -> tuple["Tensor", dict[str, Any]]:
        import torch.nn.functional as F

        readings = 2 if self.agreement else 1
        mask = None if batch.mask is None else batch.mask.repeat(readings, 1)
        logits = self.model(batch.ids.repeat(readings, 1), mask).float()
        loss = F.cross_entropy(logits, batch.labels.repeat(readings), label_smoothing=self.smoothing)
        if self.agreement:
            loss = loss + self.agreement * divergence(*logits.log_softmax(1).chunk(2))
        return loss, {}

    def units(self, batch: "LabelledBatch") -> dict[str, int]:
        return {"tokens": batch.ids.numel() if batch.mask is None else int(batch.mask.sum())}

    def validate(self) -> dict[str, float]:
        import torch.nn.functional as F

        from components.training.device import move

        device = next(self.model.parameters()).device
        right, loss, count = 0, 0.0, 0
        for batch in self.valid.in_order():
            batch = move(batch, device)
            logits = self.model(batch.ids, batch.mask).float()
            right += int((logits.argmax(1) == batch.labels).sum())
            loss += float(F.cross_entropy(logits, batch.labels, reduction="sum"))
            count += len(batch.labels)
        return {"accuracy": right / count, "loss": loss / count}


def labelled_batches(examples: "LabelledRows", config: FitConfig) -> "Loader":
    """Batches to learn from, in which texts are of about one length."""
    from components.data.loader import Loader
    from components.data.text import collate_labelled

    size, lengths = config.batch_size, examples.rows.lengths
    return Loader(examples, collate_labelled, size, config.seed, config.workers, lengths, config.accumulation)


def divergence(first: "Tensor", second: "Tensor") -> "Tensor":
    """Mean of the two Kullback-Leibler divergences between log-probabilities [n, classes], mean over n."""
    return ((first.exp() - second.exp()) * (first - second)).sum(1).mean() / 2


class TextClassifier:
    """A trained classifier, ready for records."""

    def __init__(
        self, model: "Classifier", tokenizer: "Tokenizer", context: int, classes: list[str], device: "torch.device"
    ) -> None:
        self.model, self.tokenizer, self.context, self.classes, self.device = model, tokenizer, context, classes, device

    def classify(self, records: Sequence[dict[str, Any]]) -> "NDArray":
        """Probabilities, float [n, classes]."""
        import torch

        from components.data.text import pad, real
        from components.training.device import move

        texts = rows(records, self.tokenizer, self.context)
        parts = []
        with torch.no_grad():
            for start in range(0, len(texts), 64):
                some = [texts[i] for i in range(start, min(start + 64, len(texts)))]
                parts.append(self.model(*move((pad(some), real(some)), self.device)))
        return torch.cat(parts).float().softmax(1).cpu().numpy()


def rows(records: Iterable[dict[str, Any]], tokenizer: "Tokenizer", context: int) -> "Rows":
    """The first `context` tokens of each record's text."""
    from components.data.text import Rows, encode

    return Rows(row[:context] for row in encode((record["text"] for record in records), tokenizer))


def load(folder: Path, device: "torch.device") -> TextClassifier:
    """The model of a folder that this stage wrote, in eval mode."""
    from components.data.tokenizer import load as load_tokenizer
    from components.encoders.classifier import Classifier
    from components.encoders.text import TextEncoder
    from components.training.weights import load_config, load_weights

    config = load_config(folder)
    encoder = build("encoder", TextConfig, config)
    model = Classifier(TextEncoder(encoder, config["vocabulary"]), len(config["classes"]))
    load_weights(folder, model)
    return TextClassifier(model.to(device).eval(), load_tokenizer(folder), encoder.context, config["classes"], device)


def run(params: Params, stage: Stage) -> None:
    from components.data.loader import Loader
    from components.data.records import Records
    from components.data.text import LabelledRows, collate_labelled
    from components.data.tokenizer import load as load_tokenizer
    from components.encoders.classifier import Classifier
    from components.encoders.masked_language import MaskedLanguageModel
    from components.encoders.text import TextEncoder
    from components.training.fit import fit
    from components.training.weights import load_config, load_weights, save_model

    shards, index = (stage.root / "data" / kind / params.source for kind in ("shards", "index"))
    train, valid = (Records(shards / split, index / split) for split in ("train", "valid"))
    if train.kind != "text" or train.labels.min() < 0:
        raise StageError(f"{params.source} holds no texts with labels: name a source whose fields are text and label")
    before = stage.root / "models" / "pretrain_text" / params.pretrained
    about, tokenizer = load_config(before), load_tokenizer(before)
    encoder = build("encoder", TextConfig, about)
    encoder = replace(encoder, transformer=replace(encoder.transformer, dropout=params.dropout))
    pretrained = MaskedLanguageModel(TextEncoder(encoder, about["vocabulary"]))
    load_weights(before, pretrained)

    def examples(records: Records) -> LabelledRows:
        return LabelledRows(rows(records, tokenizer, encoder.context), records.labels, params.hidden)

    config, learned = params.fit, examples(train)
    batches = labelled_batches(learned, config)
    model = Classifier(pretrained.encoder, len(train.classes), params.dropout).to(params.device)
    task = ClassifyTexts(
        model, Loader(examples(valid), collate_labelled, 64, config.seed), params.smoothing, params.agreement
    )
    inputs = [before, *(folder / split for folder in (shards, index) for split in ("train", "valid"))]
    history = fit(task, batches, config, checkpoints=stage.checkpoints(inputs))
    about = {"encoder": asdict(encoder), "vocabulary": about["vocabulary"], "classes": train.classes}
    save_model(stage.model, model, {**about, "seed": config.seed})
    shutil.copyfile(before / "tokenizer.json", stage.model / "tokenizer.json")
    history.write(stage.reports)
    stage.write_metrics(history.figures)


if __name__ == "__main__":
    start(__file__, Params, cost, run)
