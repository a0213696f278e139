"""Pre-trains a text encoder as a masked language model (BERT's task), on the train texts of one source.

Costs the encoder's passes over `steps * batch_size` texts. Writes models/pretrain_text/KEY (weights, config.json,
tokenizer.json) and reports/pretrain_text/KEY (metrics.json of the validation split, curves). finetune_text goes on
from there.
"""

import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval

from components.encoders.text_config import TextConfig
from components.training.config import FitConfig
from flows.params import Reference
from flows.stages.runtime import Stage, StageError, start

if TYPE_CHECKING:
    from torch import Tensor

    from components.data.loader import Loader
    from components.data.text import MaskedBatch
    from components.encoders.masked_language import MaskedLanguageModel


@dataclass(frozen=True)
class Params:
    source: Annotated[str, Reference("sources")]  # texts; longer ones are cut into rows of encoder.context tokens
    tokenizer: Annotated[str, Reference("tokenizer")]
    encoder: TextConfig
    fit: FitConfig
    share: Annotated[float, Interval(gt=0.0, lt=1.0)] = 0.15  # of the tokens, to be guessed
    threads: Annotated[int, Interval(ge=1)] = 1
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def seed(self) -> int:
        return self.fit.seed


def cost(params: Params) -> str:
    rows = params.fit.steps * params.fit.batch_size * params.fit.accumulation
    shape = params.encoder.transformer
    return f"{params.fit.steps:,} steps over {rows:,} texts, encoder {shape.depth}x{shape.width}, about 1 GiB"


class GuessMasked:
    """Cross-entropy of the chosen tokens; the same tokens of the validation split are guessed each time."""

    better: Literal["lower"] = "lower"

    def __init__(self, model: "MaskedLanguageModel", valid: "Loader") -> None:
        self.model, self.valid = model, valid

    def loss(self, batch: "MaskedBatch") -> tuple["Tensor", dict[str, Any]]:
        import torch.nn.functional as F

        from components.data.text import UNCHOSEN

        chosen = batch.targets != UNCHOSEN
        logits, targets = self.model(batch.ids, batch.mask, chosen).float(), batch.targets[chosen]
        return F.cross_entropy(logits, targets), {"weight": float(len(targets))}

    def units(self, batch: "MaskedBatch") -> dict[str, int]:
        return {"tokens": batch.ids.numel() if batch.mask is None else int(batch.mask.sum())}

    def validate(self) -> dict[str, float]:
        import torch.nn.functional as F

        from components.data.text import UNCHOSEN
        from components.training.device import move

        device = next(self.model.parameters()).device
        loss, right, count = 0.0, 0, 0
        for batch in self.valid.in_order():
            batch = move(batch, device)
            chosen = batch.targets != UNCHOSEN
            logits, targets = self.model(batch.ids, batch.mask, chosen).float(), batch.targets[chosen]
            loss += float(F.cross_entropy(logits, targets, reduction="sum"))
            right += int((logits.argmax(1) == targets).sum())
            count += len(targets)
        return {"loss": loss / count, "accuracy": right / count}


def run(params: Params, stage: Stage) -> None:
    from components.data.loader import Loader
    from components.data.records import Records
    from components.data.text import MaskedRows, Rows, collate_masked, cut, encode
    from components.data.tokenizer import load
    from components.encoders.masked_language import MaskedLanguageModel
    from components.encoders.text import TextEncoder
    from components.training.fit import fit
    from components.training.weights import save_model

    shards, index = (stage.root / "data" / kind / params.source for kind in ("shards", "index"))
    train, valid = (Records(shards / split, index / split) for split in ("train", "valid"))
    if train.kind != "text":
        raise StageError(f"{params.source} holds {train.kind}s: name a source of texts")
    words = stage.root / "data" / "tokenizers" / params.tokenizer
    tokenizer = load(words)
    vocabulary = tokenizer.get_vocab_size()

    def examples(records: Records) -> MaskedRows:
        ids = encode((record["text"] for record in records), tokenizer)
        return MaskedRows(Rows(cut(ids, params.encoder.context)), params.share, vocabulary)

    config, learned = params.fit, examples(train)
    batches = Loader(
        learned,
        collate_masked,
        config.batch_size,
        config.seed,
        config.workers,
        learned.rows.lengths,
        config.accumulation,
    )
    model = MaskedLanguageModel(TextEncoder(params.encoder, vocabulary)).to(params.device)
    task = GuessMasked(model, Loader(examples(valid), collate_masked, 64, config.seed))
    inputs = [words, *(folder / split for folder in (shards, index) for split in ("train", "valid"))]
    history = fit(task, batches, config, checkpoints=stage.checkpoints(inputs))
    save_model(stage.model, model, {"encoder": asdict(params.encoder), "vocabulary": vocabulary, "seed": config.seed})
    shutil.copyfile(words / "tokenizer.json", stage.model / "tokenizer.json")
    history.write(stage.reports)
    stage.write_metrics(history.figures)


if __name__ == "__main__":
    start(__file__, Params, cost, run)
