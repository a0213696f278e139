"""Whether new data come from the population that a model was trained on: what moved, and how far.

Features of single records are compared one by one (Kolmogorov-Smirnov for numbers, chi-square for classes; scipy's).
What no feature names shows in embeddings, by a classifier two-sample test (Lopez-Paz & Oquab 2017, "Revisiting
classifier two-sample tests", section 3): if a classifier tells the two sets apart on records that it was not fitted to,
they differ. Many records make any difference significant, and many features make a chance find likely: a drift needs
both, a p-value that stands after Holm's correction (1979) over all features, and an effect of a size that matters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped
from scipy.stats import chi2_contingency, ks_2samp, rankdata

Test = Literal["Kolmogorov-Smirnov", "chi-square", "classifier"]
RARE = 5.0  # expected records of a class, below which chi-square does not hold (Cochran 1954): such ones are one class
FOLDS = 5
RIDGE = 0.1  # added to each feature's variance, which is 1: embeddings are correlated


@dataclass(frozen=True)
class Shift:
    """One feature in both sets.

    effect, 0 (the same) to 1 (apart): the largest distance between the distribution functions; of classes, the share
    that would have to change (total variation); of embeddings 2 AUC - 1.
    """

    feature: str
    test: Test
    statistic: float  # D, chi-square, or the area under the ROC curve (AUC)
    p: float
    effect: float
    moved: str  # in words, for people
    corrected: float = 1.0  # p after Holm's correction over all features
    drifted: bool = False


def numbers(feature: str, reference: Shaped[np.ndarray, " n"], new: Shaped[np.ndarray, " m"]) -> Shift:
    """A number a record. ValueError where a side is empty."""
    _check(feature, len(reference), len(new))
    found = ks_2samp(reference, new, method="asymp")  # exact ones assume that no two values are equal
    before, after = (float(np.median(side)) for side in (reference, new))
    d = float(found.statistic)  # type: ignore[attr-defined]
    return Shift(feature, "Kolmogorov-Smirnov", d, float(found.pvalue), d, f"median {before:.3g} -> {after:.3g}")  # type: ignore[attr-defined]


def classes(feature: str, reference: Sequence[str], new: Sequence[str]) -> Shift:
    """A class a record. ValueError where a side is empty."""
    _check(feature, len(reference), len(new))
    names = sorted(set(reference) | set(new))
    number = {name: place for place, name in enumerate(names)}
    table = np.stack([np.bincount([number[name] for name in side], minlength=len(names)) for side in (reference, new)])
    shares = table / table.sum(1, keepdims=True)
    most = int(np.abs(shares[1] - shares[0]).argmax())
    moved = f"{names[most]}: {shares[0, most]:.1%} -> {shares[1, most]:.1%}"
    order = np.argsort(-table.sum(0), kind="stable")
    expected = table.sum(0)[order] * table.sum(1).min() / table.sum()
    usual = int((expected >= RARE).sum())
    if 0 < usual < len(names) and expected[usual:].sum() < RARE:
        usual -= 1  # the rarest of the usual ones takes the others in
    merged = np.concatenate([table[:, order[:usual]], table[:, order[usual:]].sum(1, keepdims=True)], 1)
    merged = merged[:, merged.any(0)]
    statistic, p = 0.0, 1.0
    if merged.shape[1] > 1:
        found = chi2_contingency(merged, correction=False)
        statistic, p = float(found.statistic), float(found.pvalue)  # type: ignore[attr-defined]
    return Shift(feature, "chi-square", statistic, p, float(np.abs(shares[1] - shares[0]).sum() / 2), moved)


@dataclass(frozen=True)
class Told:
    """How well a classifier tells new records (score above) from those of the reference."""

    shift: Shift
    reference: Float[np.ndarray, " n"]  # scores of records that the classifier was not fitted to
    new: Float[np.ndarray, " m"]


def embeddings(
    feature: str,
    reference: Float[np.ndarray, "n d"],
    new: Float[np.ndarray, "m d"],
    permutations: int = 999,
    seed: int = 0,
) -> Told:
    """A vector a record: a ridge classifier's AUC, cross-validated, and its p-value by permutation of the labels.

    Its scores are linear in the labels, so that the fits for all permutations are one product of matrices. ValueError
    where a side has fewer than FOLDS records.
    """
    _check(feature, len(reference), len(new), FOLDS)
    rng = np.random.default_rng(seed)
    vectors = np.concatenate([reference, new]).astype(np.float64)
    labels = np.repeat([0.0, 1.0], [len(reference), len(new)])
    scorer = _scorer(vectors, rng.permutation(len(vectors)) % FOLDS)
    drawn = np.stack([labels, *(rng.permutation(labels) for _ in range(permutations))], 1)
    scores = scorer @ (drawn - labels.mean())
    aucs = _auc(scores, drawn)
    p = float((1 + (aucs[1:] >= aucs[0]).sum()) / (1 + permutations))
    auc = float(aucs[0])
    shift = Shift(feature, "classifier", auc, p, max(0.0, 2 * auc - 1), f"told apart in {auc:.1%} of pairs")
    return Told(shift, scores[: len(reference), 0], scores[len(reference) :, 0])


def _scorer(vectors: Float[np.ndarray, "n d"], fold: Shaped[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
    """[i, j]: what record j's label adds to the score of record i, by the fit that has not seen i's fold."""
    scaled = (vectors - vectors.mean(0)) / np.maximum(vectors.std(0), np.finfo(np.float32).tiny)
    scorer = np.zeros((len(vectors), len(vectors)))
    for number in range(FOLDS):
        seen, unseen = scaled[fold != number], scaled[fold == number]
        penalty = RIDGE * len(seen) * np.eye(vectors.shape[1])
        scorer[np.ix_(fold == number, fold != number)] = unseen @ np.linalg.solve(seen.T @ seen + penalty, seen.T)
    return scorer


def _auc(scores: Float[np.ndarray, "n runs"], labels: Float[np.ndarray, "n runs"]) -> Float[np.ndarray, " runs"]:
    """Share of pairs in which the record labelled 1 has the higher score, ties as half (Mann & Whitney 1947)."""
    ones = labels.sum(0)
    ranks = (rankdata(scores, axis=0) * labels).sum(0)
    return (ranks - ones * (ones + 1) / 2) / (ones * (len(scores) - ones))


def judge(shifts: Sequence[Shift], alpha: float, effect: float) -> list[Shift]:
    """The shifts with Holm's correction: none of equal populations is called a drift, with a chance of 1 - alpha."""
    order = np.argsort([shift.p for shift in shifts], kind="stable")
    worst, corrected = 0.0, {}
    for place, which in enumerate(order.tolist()):
        worst = max(worst, min(1.0, (len(shifts) - place) * shifts[which].p))
        corrected[which] = worst
    return [
        replace(shift, corrected=corrected[i], drifted=corrected[i] <= alpha and shift.effect >= effect)
        for i, shift in enumerate(shifts)
    ]


def _check(feature: str, reference: int, new: int, least: int = 1) -> None:
    if min(reference, new) < least:
        raise ValueError(f"{feature}: {reference} records of the reference and {new} new ones: each needs {least}")
