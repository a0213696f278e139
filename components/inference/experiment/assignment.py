"""Which arm a user is in: a hash of experiment and user, so that no table is kept and every server says the same.

Experiments are independent of each other, for the experiment is hashed too; raising the share moves nobody back, for
a user's place on [0, 1) stays and only the boundary moves.
"""

import hashlib

from components.inference.experiment.config import Arm


def place(user: str, experiment: str) -> float:
    """A user's place in [0, 1), uniform over users and independent between experiments."""
    if not user or not experiment:
        raise ValueError(f"user {user!r} and experiment {experiment!r} must not be empty: all such would be one user")
    digest = hashlib.sha256(f"{experiment}\0{user}".encode()).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53  # 53 bits: what a double holds without rounding up to 1


def assign(user: str, experiment: str, share: float) -> Arm:
    """The arm of a user; `share` of all users are challengers (0: none, 1: all).

    Raises:
        ValueError: an empty user or experiment, or a share outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"experiment {experiment}: share {share} must be in [0, 1]: the challengers among the users")
    return "challenger" if place(user, experiment) < share else "champion"
