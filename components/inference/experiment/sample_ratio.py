"""Whether the arms hold as many users as the share says, at any look: otherwise users get lost, and no figure counts.

Sequential test of multinomial counts (Lindon & Malek 2022, "Anytime-valid inference for multinomial count data",
NeurIPS): the Bayes factor of a Dirichlet prior around the share against the share itself is a martingale that starts
at 1, so that its inverse is a p-value at every look.
"""

import numpy as np
from scipy.special import betaln

from components.inference.experiment.mixtures import Figures, Given

ALARM = 0.001  # a p-value below says that the split is broken: one false alarm in 1,000 experiments at most
CONCENTRATION = 1000  # of the prior, in users: shares off by 0.016 (at 0.5) are what it looks for first


def p(champion: Given, challenger: Given, share: float) -> Figures:
    """Always-valid p-value of "the challengers are `share` of the users", from the users of each arm.

    Raises:
        ValueError: a negative count, or a share outside (0, 1).
    """
    champion, challenger = np.asarray(champion), np.asarray(challenger)
    if not 0 < share < 1:
        raise ValueError(f"share {share} must be in (0, 1): the challengers among the users")
    if (champion < 0).any() or (challenger < 0).any():
        raise ValueError(f"users {champion.min()} (champion) and {challenger.min()} (challenger) must not be negative")
    ours, theirs = CONCENTRATION * share, CONCENTRATION * (1 - share)
    found = betaln(ours + challenger, theirs + champion) - betaln(ours, theirs)
    expected = challenger * np.log(share) + champion * np.log(1 - share)
    return np.exp(np.minimum(expected - found, 0.0))
