import math

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from components.inference.experiment.mixtures import Gamma, Normal, bound, tightest

POINTS = [(0.0, 1.0), (3.0, 2.0), (30.0, 100.0), (-5.0, 40.0), (60.0, 300.0)]  # sum, variance


@pytest.mark.parametrize(("total", "variance"), POINTS)
def test_normal_is_the_integral_over_bets(total: float, variance: float) -> None:
    rho = 25.0
    bets, _ = integrate.quad(
        lambda bet: math.exp(bet * total - bet**2 / 2 * variance) * stats.halfnorm.pdf(bet, scale=rho**-0.5), 0, 3
    )
    assert float(Normal(rho).log_e(total, variance)) == pytest.approx(math.log(bets), rel=1e-6)


@pytest.mark.parametrize(("total", "variance"), POINTS)
def test_gamma_is_the_integral_over_bets(total: float, variance: float) -> None:
    rho, scale = 25.0, 1.1
    shape = rho / scale**2

    def density(left: float) -> float:  # of 1 - scale * bet: a gamma density, cut at 1
        return float(stats.gamma.pdf(left, shape, scale=1 / shape) / stats.gamma.cdf(1, shape, scale=1 / shape))

    def paid(left: float) -> float:
        bet = (1 - left) / scale
        return math.exp(bet * total - variance * (-math.log(left) - scale * bet) / scale**2) * density(left)

    bets, _ = integrate.quad(paid, 1e-12, 1, limit=200)
    assert float(Gamma(rho, scale).log_e(total, variance)) == pytest.approx(math.log(bets), rel=1e-6)


@pytest.mark.parametrize("mixture", [Normal(25.0), Gamma(25.0, 1.1)])
def test_bound_is_where_the_evidence_is_enough(mixture: Normal | Gamma) -> None:
    variance = np.array([0.0, 1.0, 50.0, 1e4, 1e7])
    assert mixture.log_e(bound(mixture, variance, 0.025), variance) == pytest.approx(math.log(40), rel=1e-6)


def test_no_other_rho_is_tighter() -> None:
    found = optimize.minimize_scalar(
        lambda rho: float(bound(Normal(rho), 200.0, 0.025)), bounds=(0.1, 500), method="bounded"
    )
    assert float(bound(Normal(tightest(200.0, 0.025)), 200.0, 0.025)) == pytest.approx(found.fun, rel=0.005)


def test_no_evidence_is_not_an_error() -> None:
    assert np.exp(Gamma(1.0, 1.1).log_e(-1e6, np.array([1.0, 1e6]))).tolist() == [0, 0]
