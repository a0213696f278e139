"""Floors that any transformer should pass: linear models of raw features by scikit-learn, and xz for plain text.

A floor's strength of regularisation is chosen on validation data; it is then fitted on training and validation data
together, and looks at the test split once. It is therefore at least as hard as a linear model with default settings.
"""

import lzma
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning

from components.evaluation.features import TERM

CLASSIFIER_STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # C, the inverse of the penalty
UNTUNED = 1.0  # scikit-learn's default C
RIDGE_STRENGTHS = (1.0, 10.0, 100.0, 1000.0)  # alpha, the penalty
DESCRIPTION_TERMS = 4000  # the most frequent ones


@dataclass(frozen=True)
class Splits:
    """The same thing of each split."""

    train: Any
    valid: Any
    test: Any


@dataclass(frozen=True)
class Floor:
    """Test predictions of the tuned model, and of the same with scikit-learn's own strength, which floors in the
    literature often are."""

    tuned: Int[np.ndarray, " n"]
    untuned: Int[np.ndarray, " n"]


def classes_by_features(features: Splits, labels: Splits) -> Floor:
    """A logistic regression on dense features [n, d], each scaled to variance 1."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def model(strength: float) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=60))

    return _classes(model, features, labels, np.concatenate)


def classes_by_words(texts: Splits, labels: Splits) -> Floor:
    """A logistic regression (one class against the rest) on tf-idf of single terms and pairs."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline

    def model(strength: float) -> Any:
        return make_pipeline(words(), OneVsRestClassifier(LogisticRegression(C=strength, solver="liblinear")))

    return _classes(model, texts, labels, lambda parts: [*parts[0], *parts[1]])


def _classes(model: Callable[[float], Any], inputs: Splits, labels: Splits, join: Callable) -> Floor:
    def fit(strength: float, x: Any, y: np.ndarray) -> Any:
        with warnings.catch_warnings():  # an iteration limit is one more regulariser, and keeps the floor cheap
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model(strength).fit(x, y)

    def score(strength: float) -> float:
        return fit(strength, inputs.train, labels.train).score(inputs.valid, labels.valid)

    def predictions(strength: float) -> np.ndarray:
        whole = join([inputs.train, inputs.valid]), np.concatenate([labels.train, labels.valid])
        return fit(strength, *whole).predict(inputs.test)

    best = max(CLASSIFIER_STRENGTHS, key=score)  # of equals the first, which is the most regular
    tuned = predictions(best)
    return Floor(tuned, tuned if best == UNTUNED else predictions(UNTUNED))


def words(most: int | None = None) -> Any:
    """A vectoriser: tf-idf of single terms and pairs of neighbours, the `most` frequent ones."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), token_pattern=TERM, max_features=most, dtype=np.float32)  # type: ignore[arg-type]  # its stub knows float64 alone


class Describer:
    """Ridge regression from features to the tf-idf of a description: what stands where, said as a bag of words.

    Its two sides are vectors of one space, as two towers give them: `describe(features)` and `read(texts)`."""

    def __init__(self, features: Splits, texts: Splits) -> None:
        """features [n, d] and n texts of train and valid; the test split is not looked at."""
        from sklearn.linear_model import Ridge

        def fit(strength: float, x: np.ndarray, y: Sequence[str]) -> Any:
            with warnings.catch_warnings():  # weak penalties are ill-conditioned in float32; validation judges them
                warnings.simplefilter("ignore", LinAlgWarning)
                return Ridge(alpha=strength).fit(x, self.read(y))

        def reciprocal_rank(strength: float) -> float:
            scores = fit(strength, features.train, texts.train).predict(features.valid) @ self.read(texts.valid).T
            return float((1 / (scores >= scores.diagonal()[:, None]).sum(1)).mean())

        self.terms = words(DESCRIPTION_TERMS).fit(texts.train)
        best = max(reversed(RIDGE_STRENGTHS), key=reciprocal_rank)  # of equals the most regular
        whole = np.concatenate([features.train, features.valid])
        self.ridge = fit(best, whole, [*texts.train, *texts.valid])

    def describe(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n terms"]:
        return self.ridge.predict(features)

    def read(self, texts: Sequence[str]) -> Float[np.ndarray, "n terms"]:
        """Rows of length 1 (0 for a text without a known term): products rank as cosines do."""
        return self.terms.transform(texts).toarray()

    def nearest(self, features: Float[np.ndarray, "n d"], texts: list[str]) -> list[str]:
        """Of `texts` the one that is nearest to what each row of features is described as."""
        return [texts[best] for best in (self.describe(features) @ self.read(texts).T).argmax(1)]


def xz_bits_per_byte(known: bytes, unseen: bytes) -> float:
    """Bits a byte that `xz -9e` needs for `unseen` after `known`: (xz(known + unseen) - xz(known)) / len(unseen)."""
    before, both = (len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) for text in (known, known + unseen))
    return 8 * (both - before) / len(unseen)
