"""Trains one recipe over several seeds: a base, or a base with one thing changed. What each factor is worth.

Costs a training for each seed. Writes to reports/train_factor/KEY rows.json (validation loss, one row a seed) and
metrics.json (means). A variant has its base's seeds, and with them its order of data and its draws of initial weights,
so that losses compare in pairs. Few texts are trained on, lest regularisers have nothing to do; the loss of the
validation split is plain, without label smoothing. A base trains a decoder, or fine-tunes the pre-trained encoder
(rates by layer ask for one) as finetune_text does.
"""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval, MinLen

from components.decoders.config import DecoderConfig
from components.encoders.text_config import TextConfig
from components.training.config import FitConfig
from flows.params import ParamsError, Reference, build, load
from flows.stages.finetune_text import ClassifyTexts, labelled_batches, rows
from flows.stages.runtime import Stage, StageError, start, write_atomically
from flows.stages.train_decoder import GuessNext

if TYPE_CHECKING:
    from components.data.loader import Loader
    from components.data.records import Records

Share = Annotated[float, Interval(ge=0.0, lt=1.0)]
SECTION = "train_factor"
CHANGEABLE = ("decoder", "classifier", "fit")  # the rest is what makes two recipes a pair


@dataclass(frozen=True)
class ClassifierConfig:
    dropout: Share = 0.0  # share of features zeroed: encoder and pooled vector
    drop_path: Share = 0.0  # how often the encoder's last branches are skipped
    label_smoothing: Share = 0.0  # share of a target given to all classes alike


@dataclass(frozen=True)
class Base:
    group: Literal["core", "study"]
    of: Annotated[str, Reference(SECTION)]  # its own key
    source: Annotated[str, Reference("sources")]  # texts; with labels for a classifier
    pretrained: Annotated[str, Reference("pretrain_text")]  # gives the tokenizer, and to a classifier its encoder
    train: Annotated[int, Interval(ge=1)]  # texts of the train split that are used, the first
    fit: FitConfig  # its seed is each of `seeds` in turn
    seeds: Annotated[list[Annotated[int, Interval(ge=0)]], MinLen(2)]
    decoder: DecoderConfig | None = None  # either this
    classifier: ClassifierConfig | None = None  # or this
    threads: Annotated[int, Interval(ge=1)] = 1
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        if (self.decoder is None) == (self.classifier is None):
            raise ValueError("a base trains a decoder or a classifier: give one of the two")


@dataclass(frozen=True)
class Variant:
    group: Literal["core", "study"]
    of: Annotated[str, Reference(SECTION)]  # the base's key
    source: Annotated[str, Reference("sources")]  # the base's
    pretrained: Annotated[str, Reference("pretrain_text")]  # the base's
    factor: str  # what people call the difference
    helps: Literal["variant", "base"]  # the side that is said to be better
    change: dict[str, int | float | bool | str | None]  # dotted key of the base -> value
    claimed: bool = False  # the roadmap claims it
    threads: Annotated[int, Interval(ge=1)] = 1
    device: Literal["cpu", "cuda"] = "cpu"


Params = Base | Variant


def cost(params: Params) -> str:
    if isinstance(params, Variant):
        return f"as many steps as {params.of}, with " + ", ".join(f"{k} = {v}" for k, v in params.change.items())
    examples = len(params.seeds) * params.fit.steps * params.fit.batch_size * params.fit.accumulation
    return f"{len(params.seeds)} runs of {params.fit.steps:,} steps, {examples:,} examples in all, about 1 GiB"


def check(params: Params, root: dict[str, Any], key: str, path: str = "params.yaml") -> Base:
    """The base that is trained under this key, with a variant's changes in it; `root` is the whole file.

    Raises:
        ParamsError: a change fits nothing in the base, or the two are no pair.
    """
    at = f"{SECTION}.{key}"
    if isinstance(params, Base):
        if params.of != key:
            raise ParamsError(
                f"{path}: {at}.of = {params.of}: of a base is its own key, {key}: only variants have `change`"
            )
        return params
    base = root[SECTION][params.of]
    if "change" in base:
        raise ParamsError(f"{path}: {at}.of = {params.of}: is a variant itself: name a base")
    changed = deepcopy(base)
    for dotted, value in params.change.items():
        *above, last = dotted.split(".")
        if not above or above[0] not in CHANGEABLE:
            raise ParamsError(f"{path}: {at}.change.{dotted}: changes begin with {', '.join(CHANGEABLE)}, and a dot")
        place = changed
        for name in above:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise ParamsError(f"{path}: {at}.change.{dotted}: {name} has no keys")
        place[last] = value
    there = {**root, SECTION: {**root[SECTION], key: {"change": changed}}}
    built = build(f"{at}.change", Base, there, path)
    for name in ("source", "pretrained", "threads", "device"):
        own, its = getattr(params, name), getattr(built, name)
        if own != its:
            raise ParamsError(f"{path}: {at}.{name} = {own}: must be that of {params.of}, {its}")
    return built


def run(params: Params, stage: Stage) -> None:
    base = check(params, load("params.yaml"), stage.key)
    if isinstance(params, Variant):
        print(cost(base))
        facts = {"factor": params.factor, "helps": params.helps, "claimed": params.claimed}
    else:
        facts = {"factor": "none", "helps": "base", "claimed": False}
    named = {"variant": stage.key, "base": base.of, **facts}
    written = [{**named, **figures} for figures in trained(base, replace(stage, params=base))]
    write_atomically(stage.reports / "rows.json", json.dumps(written, indent=1) + "\n")
    measured = [name for name in ("loss", "accuracy") if name in written[0]]
    stage.write_metrics({name: sum(row[name] for row in written) / len(written) for name in measured})


def trained(base: Base, stage: Stage) -> Iterator[dict[str, Any]]:
    """Figures of one seed after the other."""
    import torch

    from components.training.fit import fit

    recipe = Decoder(base, stage.root) if base.decoder else Classifier(base, stage.root)
    folder = stage.checkpoints(recipe.inputs)
    for seed in base.seeds:
        print(f"seed {seed}")
        torch.manual_seed(seed)
        config = replace(base.fit, seed=seed)
        task, batches = recipe.made(config, folder)
        figures = fit(task, batches, config, checkpoints=folder / str(seed)).figures
        accuracy = {"accuracy": figures["accuracy"]} if "accuracy" in figures else {}
        yield {"seed": seed, "loss": figures["loss"], **accuracy, "steps": config.steps}


@dataclass
class Recipe:
    """The data of a base."""

    base: Base
    root: Path
    inputs: list[Path] = field(init=False)

    def __post_init__(self) -> None:
        from components.data.records import Records
        from components.data.tokenizer import load as load_tokenizer

        folders = [self.root / "data" / kind / self.base.source for kind in ("shards", "index")]
        self.pretrained = self.root / "models" / "pretrain_text" / self.base.pretrained
        self.inputs = [self.pretrained, *(folder / split for folder in folders for split in ("train", "valid"))]
        self.train, self.valid = (Records(*(folder / split for folder in folders)) for split in ("train", "valid"))
        if self.train.kind != "text":
            raise StageError(f"{self.base.source} holds {self.train.kind}s: name a source of texts")
        if len(self.train) < self.base.train:
            raise StageError(f"{self.base.source} has {len(self.train):,} texts to train on: lower `train` to that")
        self.tokenizer = load_tokenizer(self.pretrained)

    def texts(self, records: "Records") -> list[dict[str, Any]]:
        """All records of validation, the first of training."""
        return [records[number] for number in range(self.base.train if records is self.train else len(records))]


class Decoder(Recipe):
    def made(self, config: FitConfig, folder: Path) -> tuple[GuessNext, "Loader"]:
        from components.data.loader import Loader
        from components.data.tokenizer import EOS
        from components.data.tokens import Windows, collate, pack
        from components.decoders.causal import CausalDecoder

        shape = self.base.decoder
        assert shape

        def windows(records: "Records", name: str) -> Windows:
            texts = (record["text"] for record in self.texts(records))
            tokens = pack(texts, self.tokenizer, folder / f"{name}.npy", EOS)
            try:
                return Windows(tokens, shape.context)
            except ValueError as error:
                raise StageError(
                    f"{self.base.source}, {name}: {error}: raise `train` or lower decoder.context"
                ) from error

        learned, judged = windows(self.train, "train"), windows(self.valid, "valid")
        model = CausalDecoder(shape, self.tokenizer.get_vocab_size()).to(self.base.device)
        size = sum(len(record["text"].encode()) + 1 for record in self.valid)
        task = GuessNext(model, Loader(judged, collate, 32, config.seed), size / len(judged.tokens))
        return task, Loader(learned, collate, config.batch_size, config.seed, config.workers)


class Classifier(Recipe):
    def made(self, config: FitConfig, folder: Path) -> tuple[ClassifyTexts, "Loader"]:
        from components.data.loader import Loader
        from components.data.text import LabelledRows, collate_labelled
        from components.encoders.classifier import Classifier as Model
        from components.encoders.masked_language import MaskedLanguageModel
        from components.encoders.text import TextEncoder
        from components.training.weights import load_config, load_weights

        chosen, about = self.base.classifier, load_config(self.pretrained)
        assert chosen
        if self.train.labels.min() < 0:
            raise StageError(f"{self.base.source} holds texts without labels: name another, or train a decoder on it")
        shape = build("encoder", TextConfig, about)
        transformer = replace(shape.transformer, dropout=chosen.dropout, drop_path=chosen.drop_path)
        whole = MaskedLanguageModel(TextEncoder(replace(shape, transformer=transformer), about["vocabulary"]))
        load_weights(self.pretrained, whole)

        def examples(records: "Records") -> LabelledRows:
            texts = self.texts(records)
            return LabelledRows(rows(texts, self.tokenizer, shape.context), records.labels[: len(texts)], 0.0)

        learned = examples(self.train)
        batches = labelled_batches(learned, config)
        model = Model(whole.encoder, len(self.train.classes), chosen.dropout).to(self.base.device)
        valid = Loader(examples(self.valid), collate_labelled, 64, config.seed)
        return ClassifyTexts(model, valid, chosen.label_smoothing, 0.0), batches


if __name__ == "__main__":
    start(__file__, Params, cost, run)  # type: ignore[arg-type]  # params.py builds unions, too
