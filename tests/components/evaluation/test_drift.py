"""Equal populations are not called a drift, over many seeds; shifted ones are; size alone is no drift."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control, mannwhitneyu
from sklearn.linear_model import RidgeClassifier

from components.evaluation import drift, drift_texts
from components.evaluation.drift import Shift

WORDS = [f"word{number}" for number in range(80)]
ALPHA, EFFECT = 0.05, 0.1


def texts(rng: np.random.Generator, count: int, slope: float = 1.0, most: int = 12) -> list[str]:
    """Words whose frequency falls with their number, by a slope."""
    shares = np.arange(1, len(WORDS) + 1) ** -slope
    drawn = [rng.choice(WORDS, rng.integers(3, most), p=shares / shares.sum()) for _ in range(count)]
    return [" ".join(words) for words in drawn]


def all_shifts(rng: np.random.Generator, **changed: float) -> list[Shift]:
    """Texts, classes and vectors, the second set of each under another population where `changed` says so."""
    labels = [rng.choice(["a", "b", "c"], 150, p=[0.5, 0.3, 0.2]).tolist() for _ in range(2)]
    vectors = rng.normal(size=(2, 120, 6))
    told = drift.embeddings(
        "vectors", vectors[0], vectors[1] + changed.get("vectors", 0.0), 199, int(rng.integers(999))
    )
    found = drift_texts.shifts(texts(rng, 200), texts(rng, 150, changed.get("slope", 1.0)))
    return [*found, drift.classes("label", *labels), told.shift]


def test_equal_populations_are_called_a_drift_no_more_often_than_alpha() -> None:
    runs = 120
    judged = [drift.judge(all_shifts(np.random.default_rng(seed)), ALPHA, 0.0) for seed in range(runs)]
    alarms = sum(any(shift.drifted for shift in each) for each in judged)
    assert alarms <= ALPHA * runs + 3 * (ALPHA * (1 - ALPHA) * runs) ** 0.5, "three standard errors above alpha"
    sizes = [shift.p for each in judged for shift in each]
    assert 0.35 < np.mean(sizes) < 0.7, "p-values of equal populations lie evenly between 0 and 1"


@pytest.mark.parametrize(
    ("changed", "feature"), [({"slope": 0.2}, "rarity of words, bits"), ({"vectors": 0.8}, "vectors")]
)
def test_a_shift_is_found_and_named(changed: dict[str, float], feature: str) -> None:
    for seed in range(5):
        drifted = [
            s.feature
            for s in drift.judge(all_shifts(np.random.default_rng(seed), **changed), ALPHA, EFFECT)
            if s.drifted
        ]
        assert feature in drifted
        assert "label" not in drifted


def test_many_records_alone_make_no_drift() -> None:
    rng = np.random.default_rng(0)
    shift = drift.numbers("n", rng.normal(size=200_000), rng.normal(0.05, size=200_000))
    (judged,) = drift.judge([shift], 0.01, 0.1)
    assert judged.corrected < 1e-6
    assert judged.effect < 0.03
    assert not judged.drifted


def test_classes_by_hand() -> None:
    shift = drift.classes("label", ["a"] * 60 + ["b"] * 40, ["a"] * 30 + ["b"] * 70)
    assert shift.effect == pytest.approx(0.3)
    assert shift.statistic == pytest.approx(200 * (60 * 70 - 40 * 30) ** 2 / (100 * 100 * 90 * 110))
    assert drift.classes("label", ["a"] * 9, ["a"] * 5).p == 1.0
    assert drift.classes("label", ["a"] * 100, ["b"] * 100).effect == 1.0
    assert drift.classes("label", ["a"] * 100, ["a"] * 50 + [f"new{i}" for i in range(50)]).p < 1e-9


def test_the_correction_is_holms() -> None:
    ps = [0.04, 0.001, 0.03, 0.2]
    shifts = [Shift(str(p), "classifier", 0.9, p, 0.8, "") for p in ps]
    assert [s.corrected for s in drift.judge(shifts, 0.05, 0.1)] == pytest.approx([0.09, 0.004, 0.09, 0.2])
    assert all(
        s.corrected >= q for s, q in zip(drift.judge(shifts, 0.05, 0.1), false_discovery_control(ps), strict=True)
    )


def test_the_classifier_is_scikit_learns_and_its_auc_scipys() -> None:
    rng = np.random.default_rng(1)
    reference, new = rng.normal(size=(60, 4)), rng.normal(0.5, size=(40, 4))
    told = drift.embeddings("v", reference, new, permutations=99, seed=3)
    fold = np.random.default_rng(3).permutation(100) % drift.FOLDS
    vectors = np.concatenate([reference, new])
    vectors = (vectors - vectors.mean(0)) / vectors.std(0)
    labels = np.repeat([0, 1], [60, 40])
    scores = np.zeros(100)
    for number in range(drift.FOLDS):
        seen = fold != number
        ridge = RidgeClassifier(alpha=drift.RIDGE * seen.sum(), fit_intercept=False).fit(vectors[seen], labels[seen])
        scores[~seen] = ridge.decision_function(vectors[~seen]) / 2  # its targets are -1 and 1
    ours = np.concatenate([told.reference, told.new])
    assert np.corrcoef(ours, scores)[0, 1] > 0.95, "the same but for labels centred by the share of new ones"
    u = mannwhitneyu(told.new, told.reference).statistic
    assert told.shift.statistic == pytest.approx(u / 2400)
    assert told.shift.p == 0.01


def test_an_empty_side_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="characters: 0 records of the reference and 3 new ones: each needs 1"):
        drift.numbers("characters", np.zeros(0), np.zeros(3))
