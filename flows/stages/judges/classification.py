"""Judges a classifier of pictures, sounds or texts by its accuracy."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from components.data.records import decode_image, decode_sound
from components.evaluation.bootstrap import bootstrap
from components.evaluation.features import log_mels, pixels
from components.evaluation.floors import Floor, Splits, classes_by_features, classes_by_words
from components.evaluation.metrics import hits
from components.evaluation.pictures import confusion
from components.evaluation.results import Judgement, Result

SHOWN = 24  # wrong answers, the surest first


class Classifies(Protocol):
    """A trained classifier with its own preparation of records."""

    classes: list[str]

    def classify(self, records: Sequence[dict[str, Any]]) -> Float[np.ndarray, "n classes"]:
        """Probabilities."""
        ...


def judge(model: Classifies, data: Splits, samples: int, seed: int) -> Judgement:
    """data: Records of each split, with classes. ValueError when the model was trained on other classes."""
    classes = data.test.classes
    if model.classes != classes:
        raise ValueError(f"the model knows the classes {model.classes[:5]}..., the source has {classes[:5]}...")
    records = list(data.test)
    labels = Splits(data.train.labels, data.valid.labels, data.test.labels)
    probabilities = model.classify(records)
    right = hits(probabilities, labels.test)
    floor = _floor(data, records, labels)
    usual = np.bincount(np.concatenate([labels.train, labels.valid])).argmax()
    result = Result(
        "accuracy",
        "higher",
        bootstrap(right, samples=samples, seed=seed),
        floor=float((floor.tuned == labels.test).mean()),
        chance=float((labels.test == usual).mean()),  # always the most usual class
        count=len(labels.test),
        further={"floor_untuned": float((floor.untuned == labels.test).mean())},
    )
    return Judgement(
        [result],
        confusion(labels.test, probabilities.argmax(1), classes),
        _wrong(records, labels.test, probabilities, classes),
    )


def _floor(data: Splits, test: list[dict[str, Any]], labels: Splits) -> Floor:
    kind = data.test.kind
    if kind == "text":
        return classes_by_words(_each(data, test, lambda records: [record["text"] for record in records]), labels)
    if kind == "image":
        features = _each(data, test, lambda records: pixels(decode_image(record["image"]) for record in records))
    else:
        features = _each(data, test, lambda records: log_mels(decode_sound(record["sound"]) for record in records))
    return classes_by_features(features, labels)


def _each(data: Splits, test: list[dict[str, Any]], make: Any) -> Splits:
    return Splits(make(data.train), make(data.valid), make(test))


def _wrong(
    records: list[dict[str, Any]],
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n classes"],
    classes: list[str],
) -> list[dict[str, Any]]:
    predicted = probabilities.argmax(1)
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-probabilities.max(1)[wrong], kind="stable")][:SHOWN]
    return [
        {
            "key": records[i]["key"],
            "text": records[i].get("text", ""),
            "label": classes[labels[i]],
            "predicted": classes[predicted[i]],
            "probability": round(float(probabilities[i].max()), 4),
        }
        for i in surest
    ]
