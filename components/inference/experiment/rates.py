"""The difference of two rates, or of any values in [0, 1]: valid for every number of users, not only for many.

Users are taken in the order in which they came. A block is one user of the smaller arm and, by turns, as many of the
larger as the share asks for; its difference D of means lies in [-1, 1], and its expectation is the difference of the
rates. S = sum of D and V = sum of (D - centre)^2, with a centre that the blocks before have set, make the empirical
Bernstein process of [HRMS], theorem 4, bet on by the gamma mixture (mixtures.py): its guarantee needs no variance and
no normal approximation, so that it holds for rare events and a small arm from the first user on. Users who wait for
their block are not counted yet.

It is exact where a user's value is final when it is added (one outcome a user, or the first one). Where it changes
later, what means.py says of users who come back holds here too.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

from components.inference.experiment.config import Metric
from components.inference.experiment.evidence import Evidence
from components.inference.experiment.mixtures import Figures, Gamma, tightest

CENTRE = 0.1  # a larger difference is centred here: D never falls more than 1 + CENTRE below its centre


def ratio(share: float) -> float:
    """Users of the larger arm for one of the smaller."""
    return max(share, 1 - share) / min(share, 1 - share)


def mixture(metric: Metric, alpha: float, power: float, share: float) -> Gamma:
    """Tightest where a test without looks would find the effect; alpha is one side's."""
    variance = metric.spread**2 * (1 + 1 / ratio(share))  # of a block's difference
    blocks = variance * ((ndtri(1 - alpha) + ndtri(power)) / metric.effect) ** 2
    return Gamma(tightest(blocks * variance, alpha), 1 + CENTRE)


class Rates:
    """Adds users as they come, and keeps sums and those who wait for their block."""

    def __init__(self, mixture: Gamma, share: float) -> None:
        self.mixture = mixture
        self.ratio = ratio(share)
        self.challenger_is_smaller = share <= 0.5
        self.blocks = 0
        self.sums: Figures = np.zeros(())
        self.squares: Figures = np.zeros(())
        self.waiting: tuple[np.ndarray, np.ndarray] | None = None  # of the smaller and of the larger arm

    def add(self, champion: Float[np.ndarray, "*runs n"], challenger: Float[np.ndarray, "*runs m"]) -> None:
        """One value a user, new since the last call, in order of time.

        Raises:
            ValueError: a value outside [0, 1], or not a number.
        """
        for arm, values in (("champion", champion), ("challenger", challenger)):
            if not ((values >= 0) & (values <= 1)).all():
                wrong = values[~((values >= 0) & (values <= 1))].flat[0]
                raise ValueError(f"{arm}: {wrong} is no value of a rate, which lie in [0, 1]: make its metric a mean")
        arms = (challenger, champion) if self.challenger_is_smaller else (champion, challenger)
        smaller, larger = (
            arms
            if self.waiting is None
            else (np.concatenate([old, new], -1) for old, new in zip(self.waiting, arms, strict=True))
        )
        edges = np.floor(np.arange(self.blocks, self.blocks + smaller.shape[-1] + 1) * self.ratio + 1e-9).astype(int)
        edges -= edges[0]
        edges = edges[: np.searchsorted(edges, larger.shape[-1], side="right")]
        new = len(edges) - 1
        self._bet(smaller[..., :new] - _means(larger, edges))
        self.waiting = (smaller[..., new:], larger[..., edges[-1] :])

    def _bet(self, differences: Float[np.ndarray, "*runs blocks"]) -> None:
        if not self.challenger_is_smaller:
            differences = -differences
        before = np.asarray(self.sums)[..., None] + np.cumsum(differences, -1) - differences
        counts = np.maximum(np.arange(self.blocks, self.blocks + differences.shape[-1]), 1)
        centres = np.clip(before / counts, -CENTRE, CENTRE)
        self.squares = self.squares + np.square(differences - centres).sum(-1)
        self.sums = self.sums + differences.sum(-1)
        self.blocks += differences.shape[-1]

    def evidence(self) -> Evidence:
        weight = np.full_like(self.sums, self.blocks)
        return Evidence(self.sums / max(self.blocks, 1), weight, self.squares, self.mixture, reach=1.0)


def _means(values: Float[np.ndarray, "*runs n"], edges: np.ndarray) -> Float[np.ndarray, "*runs blocks"]:
    """Of the values from one edge to the next."""
    sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, -1)], -1)
    return np.diff(sums[..., edges], axis=-1) / np.diff(edges)
