"""Trains a causal text decoder on a source's texts, one after the other with <eos> behind each.

Costs the decoder's passes over `steps * batch_size * context` tokens. Writes models/train_decoder/RUN (weights,
config.json, tokenizer.json) and reports/train_decoder/RUN: metrics.json of the validation split (bits per byte, so that
vocabularies compare), curves, and sample.txt, what the model writes by itself. Looks at train and valid only.
"""

import math
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval

from components.decoders.config import DecoderConfig, SamplingConfig
from components.training.config import FitConfig
from flows.params import Reference, build
from flows.stages.runtime import Stage, StageError, start, write_atomically

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from torch import Tensor

    from components.data.loader import Loader
    from components.decoders.causal import CausalDecoder


@dataclass(frozen=True)
class Params:
    source: Annotated[str, Reference("sources")]  # texts
    tokenizer: Annotated[str, Reference("tokenizer")]
    decoder: DecoderConfig
    fit: FitConfig
    sampling: SamplingConfig = field(default_factory=SamplingConfig)  # of sample.txt
    threads: Annotated[int, Interval(ge=1)] = 1
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def seed(self) -> int:
        return self.fit.seed


def cost(params: Params) -> str:
    tokens = params.fit.steps * params.fit.batch_size * params.fit.accumulation * params.decoder.context
    shape = params.decoder.transformer
    return f"{params.fit.steps:,} steps over {tokens:,} tokens, decoder {shape.depth}x{shape.width}, about 1 GiB"


class GuessNext:
    """Cross-entropy of the next token; on the validation split also as bits a byte of text.

    bytes_per_token: of the validation split, each text with its separator as one more byte.
    """

    better: Literal["lower"] = "lower"

    def __init__(self, model: "CausalDecoder", valid: "Loader", bytes_per_token: float) -> None:
        self.model, self.valid, self.bytes_per_token = model, valid, bytes_per_token

    def loss(self, batch: "Tensor") -> tuple["Tensor", dict[str, Any]]:
        return self.model.loss(batch[:, :-1], batch[:, 1:]), {}

    def units(self, batch: "Tensor") -> dict[str, int]:
        return {"tokens": batch[:, 1:].numel()}

    def validate(self) -> dict[str, float]:
        from components.training.device import move

        device = next(self.model.parameters()).device
        total, rows = 0.0, 0
        for batch in self.valid.in_order():
            total += float(self.loss(move(batch, device))[0]) * len(batch)
            rows += len(batch)
        loss = total / rows
        return {"bits_per_byte": loss / math.log(2) / self.bytes_per_token, "loss": loss}


@dataclass
class TextDecoder:
    """A trained decoder in eval mode, and its tokenizer."""

    decoder: "CausalDecoder"
    tokenizer: "Tokenizer"


def load(folder: Path, device: "torch.device") -> TextDecoder:
    """The model of a folder that this stage wrote, in eval mode."""
    from components.data.tokenizer import load as load_tokenizer
    from components.decoders.causal import CausalDecoder
    from components.training.weights import load_config, load_weights

    config = load_config(folder)
    model = CausalDecoder(build("decoder", DecoderConfig, config), config["vocabulary"])
    load_weights(folder, model)
    return TextDecoder(model.to(device).eval(), load_tokenizer(folder))


def sample(model: TextDecoder, sampling: SamplingConfig, seed: int) -> str:
    """One context of text that follows an <eos>, with line ends for the <eos> in it."""
    import torch

    from components.data.tokenizer import EOS
    from components.decoders.sampling import generate

    device = model.decoder.embedding.weight.device
    prompt = torch.tensor([[EOS]], device=device)
    generator = torch.Generator(device).manual_seed(seed)
    ids = generate(model.decoder, prompt, model.decoder.context - 1, sampling, generator)[0].tolist()
    texts, text = [], []
    for token in [*ids, EOS]:
        text.append(token)
        if token == EOS:
            texts.append(model.tokenizer.decode(text))
            text = []
    return "\n".join(texts) + "\n"


def run(params: Params, stage: Stage) -> None:
    from components.data.loader import Loader
    from components.data.records import Records
    from components.data.tokenizer import EOS
    from components.data.tokenizer import load as load_tokenizer
    from components.data.tokens import Windows, collate, pack
    from components.decoders.causal import CausalDecoder
    from components.training.fit import fit
    from components.training.weights import save_model

    shards, index = (stage.root / "data" / kind / params.source for kind in ("shards", "index"))
    train, valid = (Records(shards / split, index / split) for split in ("train", "valid"))
    if train.kind != "text":
        raise StageError(f"{params.source} holds {train.kind}s: name a source of texts")
    words = stage.root / "data" / "tokenizers" / params.tokenizer
    tokenizer, config, context = load_tokenizer(words), params.fit, params.decoder.context
    inputs = [words, *(folder / split for folder in (shards, index) for split in ("train", "valid"))]
    checkpoints = stage.checkpoints(inputs)

    def windows(records: Records, name: str) -> Windows:
        tokens = pack((record["text"] for record in records), tokenizer, checkpoints / f"{name}.npy", EOS)
        try:
            return Windows(tokens, context)
        except ValueError as error:
            raise StageError(f"{params.source}, {name}: {error}: lower decoder.context") from error

    learned, judged = windows(train, "train"), windows(valid, "valid")
    size = sum(len(record["text"].encode()) + 1 for record in valid)
    batches = Loader(learned, collate, config.batch_size, config.seed, config.workers)
    model = CausalDecoder(params.decoder, tokenizer.get_vocab_size()).to(params.device)
    task = GuessNext(model, Loader(judged, collate, 32, config.seed), size / len(judged.tokens))
    history = fit(task, batches, config, checkpoints=checkpoints)
    about = {"decoder": asdict(params.decoder), "vocabulary": tokenizer.get_vocab_size(), "seed": config.seed}
    save_model(stage.model, model, about)
    shutil.copyfile(words / "tokenizer.json", stage.model / "tokenizer.json")
    history.write(stage.reports)
    write_atomically(stage.reports / "sample.txt", sample(TextDecoder(model, tokenizer), params.sampling, config.seed))
    stage.write_metrics(history.figures)


if __name__ == "__main__":
    start(__file__, Params, cost, run)
