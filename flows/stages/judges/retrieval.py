"""Judges two towers: pictures find their captions, captions their pictures, and neither falls for a changed attribute.

Recall among `candidates` distinct captions is exact over all draws of the other captions (`expected_recall`). Ties
count against a model. The linear floor describes a picture as a bag of words (ridge regression from pixels).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from components.contrastive.retrieval import beats_distractors, ranks
from components.data.records import decode_image
from components.evaluation.bootstrap import bootstrap
from components.evaluation.features import pixels
from components.evaluation.floors import Describer, Splits
from components.evaluation.metrics import expected_recall
from components.evaluation.pictures import retrieval_grid
from components.evaluation.results import Judgement, Result

SHOWN, BEST = 8, 5  # queries of the grid, and answers to each
SIDE = 24  # of the floor's pictures, pixels


class Embeds(Protocol):
    """Trained towers with their own preparation of records. Vectors have length 1."""

    def embed_images(self, records: Sequence[dict[str, Any]]) -> Float[Tensor, "n space"]: ...

    def embed_texts(self, captions: Sequence[str]) -> Float[Tensor, "n space"]: ...


@dataclass(frozen=True)
class Pairs:
    """Test pictures with their captions, the distinct captions, and captions with one attribute changed."""

    records: list[dict[str, Any]]
    captions: list[str]  # one a record
    distinct: list[str]
    changed: list[list[str]]  # as many for each record

    @property
    def groups(self) -> Tensor:
        """Int [n]: each picture's caption among the distinct ones."""
        numbers = {caption: number for number, caption in enumerate(self.distinct)}
        return torch.tensor([numbers[caption] for caption in self.captions])

    @property
    def first(self) -> Tensor:
        """Int [m]: the first picture of each distinct caption."""
        return torch.tensor([self.captions.index(caption) for caption in self.distinct])


@dataclass(frozen=True)
class Vectors:
    images: Float[Tensor, "n space"]
    captions: Float[Tensor, "m space"]  # of the distinct ones
    changed: Float[Tensor, "n k space"] | None  # None where no record has any


def judge(model: Embeds, data: Splits, samples: int, seed: int, caption: str, candidates: int) -> Judgement:
    """data: Records of each split, pictures with the field `caption`. `candidates`: captions among which one is found,
    the right one included; at most all that the split has."""
    pairs = _pairs(list(data.test), caption)
    own = _vectors(pairs, model.embed_images, model.embed_texts)
    floor = _floor_vectors(pairs, data, caption)
    drawn = min(candidates, len(pairs.distinct))
    texts, floor_texts = (_texts_found(pairs, vectors) for vectors in (own, floor))
    pictures, floor_pictures = (_pictures_found(pairs, vectors) for vectors in (own, floor))

    def recall(name: str, better: np.ndarray, floor_better: np.ndarray) -> Result:
        expected = [expected_recall(better, len(pairs.distinct), drawn, k) for k in (1, 5)]
        floor_value = float(expected_recall(floor_better, len(pairs.distinct), drawn).mean())
        interval = bootstrap(expected[0], samples=samples, seed=seed)
        further = {f"{name.replace('@1', '@5')}": float(expected[1].mean()), f"{name}_candidates": drawn}
        return Result(name, "higher", interval, floor_value, 1 / drawn, len(better), further)

    results = [
        recall("recall@1", texts, floor_texts),
        recall("recall@1_text_to_picture", pictures, floor_pictures),
    ]
    beaten, floor_beaten = (_beaten(pairs, vectors) for vectors in (own, floor))
    if beaten.size:
        for name, chance, choose in (
            ("changed_attribute", 1 / 2, np.mean),
            ("changed_attribute_all", 1 / (1 + beaten.shape[1]), np.all),
        ):
            right, floor_value = choose(beaten, axis=1), float(choose(floor_beaten, axis=1).mean())
            interval = bootstrap(right, samples=samples, seed=seed)
            results.append(Result(name, "higher", interval, floor_value, chance, len(right)))
    return Judgement(results, *_show(pairs, own))


def found(model: Embeds, records: list[dict[str, Any]], caption: str, candidates: int) -> Float[np.ndarray, " n"]:
    """Each picture's chance to find its caption first, among `candidates` distinct ones (recall@1 is the mean)."""
    pairs = replace(_pairs(records, caption), changed=[])
    better = _texts_found(pairs, _vectors(pairs, model.embed_images, model.embed_texts))
    return expected_recall(better, len(pairs.distinct), min(candidates, len(pairs.distinct)))


def _pairs(records: list[dict[str, Any]], caption: str) -> Pairs:
    captions = [record[caption] for record in records]
    changed = [record.get("changed", []) for record in records]
    fewest = min(map(len, changed))  # sets that were mixed may differ in it
    return Pairs(records, captions, list(dict.fromkeys(captions)), [each[:fewest] for each in changed])


def _vectors(
    pairs: Pairs, images: Callable[[list[dict[str, Any]]], Tensor], texts: Callable[[list[str]], Tensor]
) -> Vectors:
    flat = [text for changed in pairs.changed for text in changed]
    changed = texts(flat).cpu().unflatten(0, (len(pairs.records), -1)) if flat else None
    return Vectors(images(pairs.records).cpu(), texts(pairs.distinct).cpu(), changed)


def _floor_vectors(pairs: Pairs, data: Splits, caption: str) -> Vectors:
    def see(records: Sequence[dict[str, Any]]) -> np.ndarray:
        return pixels((decode_image(record["image"]) for record in records), SIDE)

    def read(records: Sequence[dict[str, Any]]) -> list[str]:
        return [record[caption] for record in records]

    describer = Describer(
        Splits(see(data.train), see(data.valid), None), Splits(read(data.train), read(data.valid), None)
    )
    return _vectors(
        pairs,
        lambda records: torch.from_numpy(describer.describe(see(records))),
        lambda texts: torch.from_numpy(describer.read(texts)),
    )


def _texts_found(pairs: Pairs, vectors: Vectors) -> np.ndarray:
    """Int [n]: wrong captions that stand before the right one, for each picture."""
    return ranks(vectors.images, vectors.captions, pairs.groups, torch.arange(len(pairs.distinct))).numpy()


def _pictures_found(pairs: Pairs, vectors: Vectors) -> np.ndarray:
    """Int [m]: wrong pictures before the right one, for each distinct caption, among one picture a caption."""
    each = torch.arange(len(pairs.distinct))
    return ranks(vectors.captions, vectors.images[pairs.first], each, each).numpy()


def _beaten(pairs: Pairs, vectors: Vectors) -> np.ndarray:
    """Bool [n, k]: whether the own caption beats each of its changed ones; empty where there are none."""
    if vectors.changed is None:
        return np.empty((len(pairs.records), 0), bool)
    return beats_distractors(vectors.images, vectors.captions[pairs.groups], vectors.changed).numpy()


def _show(pairs: Pairs, vectors: Vectors) -> tuple[Any, list[dict[str, Any]]]:
    """The grid, and the first pictures with what they found."""
    first = pairs.first[:SHOWN]
    pictures = vectors.images[pairs.first]
    captions = (vectors.images[first] @ vectors.captions.T).topk(min(BEST, len(pairs.distinct))).indices.tolist()
    found = (vectors.captions[:SHOWN] @ pictures.T).topk(min(BEST, len(pairs.distinct))).indices.tolist()
    needed = {number: _array(pairs.records[pairs.first[number]]) for row in found for number in row}
    needed |= {number: _array(pairs.records[pairs.first[number]]) for number in range(len(first))}
    texts = [
        (needed[number], pairs.distinct[number], [pairs.distinct[best] for best in row])
        for number, row in enumerate(captions)
    ]
    grid = [
        (pairs.distinct[number], needed[number], [needed[best] for best in row]) for number, row in enumerate(found)
    ]
    keys = [pairs.records[number]["key"] for number in first.tolist()]
    samples = [{"key": key, "caption": own, "found": row} for key, (_, own, row) in zip(keys, texts, strict=True)]
    return retrieval_grid(texts, grid), samples


def _array(record: dict[str, Any]) -> np.ndarray:
    return decode_image(record["image"]).permute(1, 2, 0).numpy()
