"""Test martingales that stay valid at any look, and the boundaries that they give.

A process with sum S and intrinsic variance V is bet on with every strength lambda at once, weighted by a density. The
mean of these bets is a martingale that starts at 1, so that it ever reaches 1/alpha with a chance of alpha at most
(Ville 1939). All of it is one-sided, and in logarithms.

Howard, Ramdas, McAuliffe, Sekhon (2021), "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of
Statistics 49(2), below [HRMS].
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.special import gammainc, gammaln, lambertw, log_ndtr

Figures = np.ndarray | np.floating  # one of a comparison, or an array of them
Given = Figures | np.integer | float | int


@runtime_checkable
class Mixture(Protocol):
    def log_e(self, sums: Given, variance: Given) -> Figures:
        """Logarithm of the evidence that the sum drifts upwards; rises with the sum."""
        ...


@dataclass(frozen=True)
class Normal:
    """For sums that are (nearly) Gaussian: lambda half-normal with variance 1/rho ([HRMS], proposition 6)."""

    rho: float

    def log_e(self, sums: Given, variance: Given) -> Figures:
        sums, total = np.asarray(sums, float), np.asarray(variance, float) + self.rho
        return math.log(2) + 0.5 * (np.log(self.rho / total) + sums**2 / total) + log_ndtr(sums / np.sqrt(total))


@dataclass(frozen=True)
class Gamma:
    """For sums of bounded steps, with their squares as variance: no approximation ([HRMS], proposition 9).

    exp(lambda S - V psi(lambda)) with psi(lambda) = (-log(1 - scale lambda) - scale lambda) / scale^2 is mixed over
    1 - scale lambda in (0, 1), by a gamma density cut at 1.
    """

    rho: float
    scale: float  # a step falls at most this far below the centre that its square is taken from

    def log_e(self, sums: Given, variance: Given) -> Figures:
        square = self.scale**2
        start, shape = self.rho / square, (np.asarray(variance, float) + self.rho) / square
        rate = np.maximum(np.asarray(sums, float) / self.scale + shape, np.finfo(float).tiny)
        with np.errstate(divide="ignore"):  # far below 0 there is no evidence: the logarithm of 0
            return (
                (start * math.log(start) - math.lgamma(start) - math.log(gammainc(start, start)))
                + (gammaln(shape) + np.log(gammainc(shape, rate)) - shape * np.log(rate))
                + (rate - start)
            )


def tightest(variance: float, alpha: float) -> float:
    """The rho with which the one-sided boundary at `alpha` is lowest at this variance ([HRMS], section 3.5)."""
    return variance / (-float(lambertw(-((2 * alpha) ** 2) / math.e, -1).real) - 1)


def bound(mixture: Mixture, variance: Given, alpha: float) -> Figures:
    """The sum that is ever passed with a chance of `alpha` at most, where nothing drifts; by bisection."""
    variance = np.asarray(variance, float)
    wanted = -math.log(alpha)
    low, high = np.zeros_like(variance), 1 + np.sqrt(variance)
    while (short := mixture.log_e(high, variance) < wanted).any():
        low, high = np.where(short, high, low), np.where(short, 2 * high, high)
    for _ in range(60):  # to 2^-60 of the first step
        middle = (low + high) / 2
        short = mixture.log_e(middle, variance) < wanted
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return high
