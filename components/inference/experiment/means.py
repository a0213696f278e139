"""The difference of two means without bounds (latency, value), from three sums an arm.

The estimate times its information I = 1 / (s0^2/n0 + s1^2/n1) is, for many users, a Brownian motion in I with the true
difference as drift, whatever path n0 and n1 take (Jennison & Turnbull 2000, chapter 11). So the normal mixture applies
to it: an asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2024, "Time-uniform central limit
theory and asymptotic confidence sequences", Annals of Statistics 52(6), theorem 2.2), here for two samples of unequal
size and variance; with known variances it is the mSPRT of Johari, Pekelis, Walsh (2022).

With a long tail (latency) the mean and the variance of a small arm are low together, and the interval is too narrow
just when it is off. So the variance of an arm is not believed to lie below its blend with both arms' pooled one, which
weighs less and less: of 1,500 A/A runs with lognormal values and 1,000 users in the small arm, 1.0% gave a false alarm
instead of 4.9%.

A user who comes back changes the user's mean. What is added to the sum later then goes along with what was added
before, so that looks resemble each other more than those of a Brownian motion, which crosses a boundary more seldom
(Slepian 1962); benchmarks/experiments.py has that case.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

from components.inference.experiment.config import Metric
from components.inference.experiment.evidence import Evidence
from components.inference.experiment.mixtures import Figures, Normal, tightest

START = 50  # users of each arm, before which a variance is too rough to be divided by
BLEND = 500  # users that the pooled variance counts for


def mixture(metric: Metric, alpha: float, power: float) -> Normal:
    """Tightest where a test without looks would find the effect; alpha is one side's."""
    return Normal(tightest(((ndtri(1 - alpha) + ndtri(power)) / metric.effect) ** 2, alpha))


class Moments:
    """Count, mean and sum of squares around it (Chan, Golub, LeVeque 1979), of one sample or of an array of them."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Figures = np.zeros(())
        self.squares: Figures = np.zeros(())

    def add(self, values: Float[np.ndarray, "*runs n"]) -> None:
        if not (new := values.shape[-1]):
            return
        mean = values.mean(-1)
        apart, total = mean - self.mean, self.count + new
        self.squares = self.squares + np.square(values - mean[..., None]).sum(-1) + apart**2 * self.count * new / total
        self.mean = self.mean + apart * new / total
        self.count = total

    def variance_of_mean(self, pooled: Figures | float = 0.0) -> Figures:
        """Of a variance that is not believed to lie below its blend with the pooled one of both arms."""
        own = self.squares / (self.count - 1)
        return np.maximum(own, (self.count * own + BLEND * pooled) / (self.count + BLEND)) / self.count


class Means:
    """Adds users as they come; memory does not grow with them."""

    def __init__(self, mixture: Normal) -> None:
        self.mixture = mixture
        self.champion, self.challenger = Moments(), Moments()

    def add(self, champion: Float[np.ndarray, "*runs n"], challenger: Float[np.ndarray, "*runs m"]) -> None:
        """One value a user, new since the last call.

        Raises:
            ValueError: a value that is not finite.
        """
        for arm, values in (("champion", champion), ("challenger", challenger)):
            if not np.isfinite(values).all():
                raise ValueError(
                    f"{arm}: {(~np.isfinite(values)).sum()} values are not finite: leave such outcomes out"
                )
        self.champion.add(champion)
        self.challenger.add(challenger)

    def evidence(self) -> Evidence:
        difference = self.challenger.mean - self.champion.mean
        nothing = np.zeros_like(difference)
        if min(self.champion.count, self.challenger.count) < START:
            return Evidence(difference, nothing, nothing, self.mixture)
        both = self.champion, self.challenger
        pooled = sum(arm.squares for arm in both) / (sum(arm.count for arm in both) - 2)
        variance = sum(arm.variance_of_mean(pooled) for arm in both)
        information = np.divide(1.0, variance, out=nothing, where=variance > 0)  # all values alike: nothing to say
        return Evidence(difference, information, information, self.mixture)
