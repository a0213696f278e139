import hashlib

import numpy as np
import pytest
from scipy import stats

from components.inference.experiment.assignment import assign, place

USERS = [f"user-{number}" for number in range(20_000)]


def test_places_are_uniform() -> None:
    counts = np.histogram([place(user, "ranking-3") for user in USERS], bins=50, range=(0, 1))[0]
    assert stats.chisquare(counts).pvalue > 0.001


def test_experiments_are_independent() -> None:
    pairs = [[assign(user, "a", 0.3), assign(user, "b", 0.5)] for user in USERS]
    counts = np.array(
        [[pairs.count([one, two]) for two in ("champion", "challenger")] for one in ("champion", "challenger")]
    )
    assert stats.chi2_contingency(counts).pvalue > 0.001
    assert counts[1].sum() / len(USERS) == pytest.approx(0.3, abs=0.01)


def test_raising_the_share_moves_nobody_back() -> None:
    before: set[str] = set()
    for share in (0.0, 0.01, 0.1, 0.35, 0.9, 1.0):
        now = {user for user in USERS[:3000] if assign(user, "canary", share) == "challenger"}
        assert before <= now
        before = now
    assert len(before) == 3000


def test_another_program_can_say_the_same() -> None:
    digest = hashlib.sha256(b"ranking-3\x00user-7").hexdigest()
    assert place("user-7", "ranking-3") == pytest.approx(int(digest, 16) / 2**256, abs=2**-50)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_outside_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        assign("user", "a", share)


@pytest.mark.parametrize(("user", "experiment"), [("", "a"), ("user", "")])
def test_empty_names_are_refused(user: str, experiment: str) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        assign(user, experiment, 0.5)
