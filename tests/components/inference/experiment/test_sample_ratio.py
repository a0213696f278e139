import math

import numpy as np
import pytest
from scipy import integrate, stats

from components.inference.experiment.sample_ratio import ALARM, CONCENTRATION, p


@pytest.mark.parametrize(("champion", "challenger", "share"), [(900, 60, 0.1), (40, 10, 0.5), (2, 1, 0.3)])
def test_it_is_the_bayes_factor_by_integration(champion: int, challenger: int, share: float) -> None:
    prior = stats.beta(CONCENTRATION * share, CONCENTRATION * (1 - share))

    def ratio(truth: float) -> float:
        return math.exp(challenger * math.log(truth / share) + champion * math.log((1 - truth) / (1 - share))) * float(
            prior.pdf(truth)
        )

    factor, _ = integrate.quad(ratio, 1e-9, 1 - 1e-9, points=[share], limit=200)
    assert float(p(champion, challenger, share)) == pytest.approx(min(1, 1 / factor), rel=1e-6)


def test_false_alarms_when_looked_at_after_every_user() -> None:
    rng = np.random.default_rng(0)
    challengers = (rng.random((2000, 2000)) < 0.1).cumsum(1)
    users = np.arange(1, 2001)
    alarms = (p(users - challengers, challengers, 0.1) < ALARM).any(1).sum()
    assert alarms <= stats.binom.ppf(0.999, 2000, ALARM)


def test_a_broken_split_is_seen() -> None:
    assert float(p(5300, 4700, 0.5)) < ALARM
    assert float(p(5050, 4950, 0.5)) > 0.5


def test_wrong_counts_and_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        p(10, -1, 0.5)
    with pytest.raises(ValueError, match="share 1.0 must be in"):
        p(10, 1, 1.0)
