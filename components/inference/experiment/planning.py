"""How many users an experiment needs, and for how many days, before it is started.

The fixed test looks once, at the end (Welch's two-sided z-test); the sequential one may look at any time, and pays for
it with more users in the worst case, but stops earlier where the effect is there. Its figures come from its own
stopping, simulated: many paths of the sums with the effect in them, looked at again and again, against the very
martingale that the experiment is judged by.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from components.inference.experiment import means, rates
from components.inference.experiment.config import Metric

PATHS, LOOKS = 2000, 100  # simulated; some 50 looks until the effect is found, a figure within about 3%


@dataclass(frozen=True)
class Plan:
    """Users of both arms together."""

    metric: str
    fixed: int  # a test that looks once
    sequential: int  # by which the sequential test has found the effect, with the power asked for
    expected: int  # that it needs on average, if the effect is there and it ends at `sequential` at the latest
    share: float

    def arms(self) -> tuple[int, int]:
        """`sequential`, champion's and challenger's."""
        challenger = math.ceil(self.sequential * self.share)
        return self.sequential - challenger, challenger

    def days(self, users_per_day: float) -> float:
        """For `sequential`, at so many new users a day, both arms together.

        Raises:
            ValueError: no users.
        """
        if not users_per_day > 0:
            raise ValueError(f"{users_per_day:g} users a day: an experiment needs some")
        return self.sequential / users_per_day


def plan(metric: Metric, share: float = 0.5, alpha: float = 0.05, power: float = 0.8, primaries: int = 1) -> Plan:
    """Users needed to find `metric.effect`, as a primary metric among `primaries`, or a guardrail held at alpha / 2.

    Raises:
        ValueError: share, alpha or power outside (0, 1); a rate whose baseline and effect leave [0, 1].
    """
    for name, value in (("share", share), ("alpha", alpha), ("power", power)):
        if not 0 < value < 1:
            raise ValueError(f"{name} {value:g} must be in (0, 1)")
    side = alpha / primaries / 2
    champion, challenger = _variances(metric)
    fixed = (champion / (1 - share) + challenger / share) * ((ndtri(1 - side) + ndtri(power)) / metric.effect) ** 2
    smaller = min(share, 1 - share)
    of_smaller, of_larger = (challenger, champion) if share <= 0.5 else (champion, challenger)
    variance = of_smaller + of_larger / rates.ratio(share)  # of the difference that one user of the smaller arm gives
    if metric.kind == "rate":
        stops = _stops(rates.mixture(metric, side, power, share), metric.effect, variance, side, power, fixed * smaller)
    else:
        drift = metric.effect / variance  # sums in units of information
        stops = _stops(means.mixture(metric, side, power), drift, 1 / variance, side, power, fixed * smaller)
    needed = float(np.quantile(stops, power, method="higher"))
    return Plan(
        metric.name,
        math.ceil(fixed),
        math.ceil(needed / smaller),
        math.ceil(float(np.minimum(stops, needed).mean()) / smaller),
        share,
    )


def _variances(metric: Metric) -> tuple[float, float]:
    """Of one user's value, in the champion's arm, and in the challenger's if the effect is there."""
    if metric.kind == "mean":
        return metric.spread**2, metric.spread**2
    rate = (metric.baseline or 0.0) + metric.sign * metric.effect
    if not 0 <= rate <= 1:
        raise ValueError(
            f"metric {metric.name}: baseline {metric.baseline:g} and effect {metric.effect:g} give a rate of {rate:g}, "
            "outside [0, 1]: lower the effect"
        )
    return metric.spread**2, rate * (1 - rate)


def _stops(
    mixture: means.Normal | rates.Gamma, drift: float, variance: float, alpha: float, power: float, fixed: float
) -> np.ndarray:
    """Users of the smaller arm at which each path's evidence reaches 1 / alpha; infinity where it does not in time.

    drift, variance: of the sum, a user. fixed: users of the smaller arm that the fixed test needs."""
    horizon = 3 * fixed
    while True:
        users = np.linspace(horizon / LOOKS, horizon, LOOKS)
        steps = np.random.default_rng(0).normal(size=(PATHS, LOOKS)) * math.sqrt(variance * horizon / LOOKS)
        crossed = np.asarray(mixture.log_e(drift * users + np.cumsum(steps, 1), variance * users)) >= -math.log(alpha)
        if crossed.any(1).mean() > power:
            return np.where(crossed.any(1), users[crossed.argmax(1)], np.inf)
        horizon *= 2
