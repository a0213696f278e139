"""Trains two towers on pairs of picture and caption, so that each finds the other (Radford et al. 2021).

Where records hold captions that are nearly right (`hard`), each picture also meets one of its own, which makes the
towers look at what a random batch never asks for (Yuksekgonul et al. 2023, "NegCLIP"). Costs both towers' passes over
`steps * batch_size` pairs. Writes models/train_clip/RUN and reports/train_clip/RUN. Looks at train and valid only.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval, Len

from components.data.images_config import AugmentConfig
from components.encoders.image_config import ImageConfig, TimmConfig
from components.encoders.text_config import TextConfig
from components.training.config import FitConfig
from flows.params import Reference, build
from flows.stages.runtime import Stage, StageError, start

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from torch import Tensor

    from components.contrastive.towers import TwoTowers


@dataclass(frozen=True)
class Params:
    source: Annotated[str, Reference("sources")]  # pictures with captions
    tokenizer: Annotated[str, Reference("tokenizer")]
    image: ImageConfig | TimmConfig  # the own stack, or timm's by name
    text: TextConfig
    fit: FitConfig
    captions: Annotated[list[str], Len(1)] = field(default_factory=lambda: ["text"])  # fields; one is drawn each time
    hard: str = ""  # field with a list of nearly right captions; empty: none
    space: Annotated[int, Interval(ge=2, le=4096)] = 128  # features of the common space
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    threads: Annotated[int, Interval(ge=1)] = 1
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def seed(self) -> int:
        return self.fit.seed


def cost(params: Params) -> str:
    seen = params.fit.steps * params.fit.batch_size * params.fit.accumulation
    return f"{params.fit.steps:,} steps over {seen:,} pairs with pictures of {params.image.size} pixels, about 1.5 GiB"


class MatchPairs:
    """The contrastive loss over a batch; recall@1 among `among` validation pairs at a time."""

    better: Literal["higher"] = "higher"
    among = 100

    def __init__(self, towers: "Towers", valid: Sequence[dict[str, Any]], caption: str) -> None:
        self.towers, self.valid, self.caption = towers, valid, caption
        self.model = towers.model

    def loss(self, batch: tuple["Tensor", "Tensor", "Tensor"]) -> tuple["Tensor", dict[str, Any]]:
        from components.contrastive.loss import clip_loss, distractor_loss
        from components.data.images import unit

        images, ids, mask = batch
        seen, read, scale = self.model(unit(images), ids, mask)
        loss = clip_loss(seen, read[: len(seen)], scale)
        if len(read) > len(seen):
            loss = loss + distractor_loss(seen, read[: len(seen)], read[len(seen) :], scale)
        return loss, {"scale": scale.detach()}

    def validate(self) -> dict[str, float]:
        import torch

        from components.contrastive.retrieval import both_ways, recall

        found = []
        for start_ in range(0, len(self.valid), self.among):
            records = self.valid[start_ : start_ + self.among]
            captions = [record[self.caption] for record in records]
            groups = torch.tensor([captions.index(caption) for caption in captions])
            vectors = self.towers.embed_images(records).cpu(), self.towers.embed_texts(captions).cpu()
            found.append(torch.stack(both_ways(*vectors, groups)))
        texts, pictures = torch.cat(found, dim=1)
        return {"recall@1": recall(texts, 1), "recall@1_text_to_picture": recall(pictures, 1)}


class Towers:
    """Two towers, ready for records and captions."""

    chunk = 256

    def __init__(self, model: "TwoTowers", size: int, context: int, tokenizer: "Tokenizer") -> None:
        self.model, self.size, self.context, self.tokenizer = model, size, context, tokenizer

    @property
    def device(self) -> "torch.device":
        return next(self.model.parameters()).device

    def encode(self, captions: Sequence[str]) -> tuple["Tensor", "Tensor"]:
        """Token ids, padded at the end and cut to the context, and where they are real. Both [n, tokens]."""
        import torch

        from components.data.tokenizer import PAD

        rows = [
            row.ids[: self.context] for row in self.tokenizer.encode_batch(list(captions), add_special_tokens=False)
        ]
        ids = torch.full((len(rows), max(map(len, rows))), PAD)
        for line, row in zip(ids, rows, strict=True):
            line[: len(row)] = torch.tensor(row)
        return ids, ids != PAD

    def embed_images(self, records: Sequence[dict[str, Any]]) -> "Tensor":
        """Unit vectors, float32 [n, space]."""
        import torch

        from components.data.images import picture, unit

        def part(chunk: Sequence[dict[str, Any]]) -> "Tensor":
            images = torch.stack([picture(record, self.size) for record in chunk])
            return self.model.embed_images(unit(images.to(self.device)))

        with torch.no_grad():
            return torch.cat([part(records[i : i + self.chunk]) for i in range(0, len(records), self.chunk)])

    def embed_texts(self, captions: Sequence[str]) -> "Tensor":
        """Unit vectors, float32 [n, space]."""
        import torch

        def part(chunk: Sequence[str]) -> "Tensor":
            return self.model.embed_texts(*(tensor.to(self.device) for tensor in self.encode(chunk)))

        with torch.no_grad():
            return torch.cat([part(captions[i : i + self.chunk]) for i in range(0, len(captions), self.chunk)])


def make(image: ImageConfig | TimmConfig, text: TextConfig, space: int, tokenizer: "Tokenizer") -> Towers:
    from components.contrastive.towers import TwoTowers
    from components.encoders.image import image_encoder
    from components.encoders.text import TextEncoder

    model = TwoTowers(image_encoder(image), TextEncoder(text, tokenizer.get_vocab_size()), space)
    return Towers(model, image.size, text.context, tokenizer)


def load(folder: Path, device: "torch.device") -> Towers:
    """The towers of a folder that this stage wrote, in eval mode; their tokenizer lies beside the weights."""
    from components.data.tokenizer import load as load_tokenizer
    from components.training.weights import load_config, load_weights

    config = load_config(folder)
    image = build("image", ImageConfig | TimmConfig, config)  # type: ignore[arg-type]  # a union is no class
    towers = make(image, build("text", TextConfig, config), config["space"], load_tokenizer(folder))
    load_weights(folder, towers.model)
    towers.model.to(device).eval()
    return towers


def run(params: Params, stage: Stage) -> None:
    from components.data.loader import Loader, Prepared
    from components.data.records import Records
    from components.data.tokenizer import load as load_tokenizer
    from components.training.fit import fit
    from components.training.weights import save_model

    shards, index = (stage.root / "data" / kind / params.source for kind in ("shards", "index"))
    train, valid = (Records(shards / split, index / split) for split in ("train", "valid"))
    for name in (*params.captions, *([params.hard] if params.hard else [])):
        if not train[0].get(name):
            raise StageError(f"source {params.source} has no field {name}: it has {', '.join(train[0])}")
    folder = stage.root / "data" / "tokenizers" / params.tokenizer
    tokenizer = load_tokenizer(folder)
    towers = make(params.image, params.text, params.space, tokenizer)
    towers.model.to(params.device)
    config = params.fit
    examples = Prepared(train, lambda record, rng: example(record, rng, params))
    batches = Loader(examples, lambda rows: collate(rows, towers), config.batch_size, config.seed, config.workers)
    inputs = [part / split for part in (shards, index) for split in ("train", "valid")] + [folder]
    task = MatchPairs(towers, list(valid), params.captions[0])
    history = fit(task, batches, config, checkpoints=stage.checkpoints(inputs))
    save_model(
        stage.model,
        towers.model,
        {name: asdict(getattr(params, name)) for name in ("image", "text")}
        | {"space": params.space, "captions": params.captions, "seed": config.seed},
    )
    tokenizer.save(str(stage.model / "tokenizer.json"))
    history.write(stage.reports)
    stage.write_metrics(history.figures)


def example(record: dict[str, Any], rng: Any, params: Params) -> tuple["Tensor", str, str]:
    """A picture, its caption, and a nearly right caption (empty where there is none)."""
    from components.data.images import picture, vary

    captions = [record[name] for name in params.captions]
    others = record[params.hard] if params.hard else [""]
    caption, other = (choices[rng.integers(len(choices))] for choices in (captions, others))
    return vary(picture(record, params.image.size), params.augment, rng), caption, other


def collate(rows: list[tuple["Tensor", str, str]], towers: Towers) -> tuple["Tensor", "Tensor", "Tensor"]:
    """Pictures uint8 [b, 3, y, x]; ids and mask [b, n], or [2b, n] where nearly right captions follow."""
    import torch

    images, captions, others = zip(*rows, strict=True)
    return torch.stack(images), *towers.encode([*captions, *(other for other in others if other)])


if __name__ == "__main__":
    start(__file__, Params, cost, run)
