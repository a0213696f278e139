"""How the challenger differs from the champion so far: an interval and a p-value that hold at every look at once."""

from dataclasses import dataclass

import numpy as np

from components.inference.experiment.mixtures import Figures, Given, Mixture, bound


@dataclass(frozen=True)
class Evidence:
    """A confidence sequence of challenger - champion, for one comparison or for an array of them.

    Look as often as you like and stop when you like: the chance that any of the intervals misses the truth is the
    alpha of its two sides together.
    """

    difference: Figures  # challenger - champion, estimated
    weight: Figures  # of the difference in the sum that is bet on; 0: nothing to say yet
    variance: Figures  # of that sum
    mixture: Mixture
    reach: float = np.inf  # no difference is larger

    def above(self, null: Given = 0.0) -> Figures:
        """Logarithm of the evidence that the difference is above `null`."""
        return self.mixture.log_e(self.weight * (self.difference - null), self.variance)

    def below(self, null: Given = 0.0) -> Figures:
        """Logarithm of the evidence that the difference is below `null`."""
        return self.mixture.log_e(-self.weight * (self.difference - null), self.variance)

    def p(self) -> Figures:
        """Always-valid p-value of "no difference", two-sided (Johari, Pekelis, Walsh 2022)."""
        return np.minimum(1.0, 2 * np.exp(-np.maximum(self.above(), self.below())))

    def interval(self, alpha: float) -> tuple[Figures, Figures]:
        """What the difference lies between, at every look; either side is missed with a chance of `alpha` at most."""
        with np.errstate(divide="ignore"):
            width = bound(self.mixture, self.variance, alpha) / self.weight
        return np.maximum(self.difference - width, -self.reach), np.minimum(self.difference + width, self.reach)
