"""What an experiment is to find out, written down before it starts. Free of numpy, so that it is checked at once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

Arm = Literal["champion", "challenger"]
ARMS: tuple[Arm, Arm] = ("champion", "challenger")
Mode = Literal["canary", "shadow"]
JUDGED = ("failed", "seconds")  # metrics that need no outcome, so that a shadow can be held to them


@dataclass(frozen=True)
class Metric:
    """A figure of one user: the mean of what was logged of that user, for users, not requests, are independent.

    Raises:
        ValueError: an effect of 0 or less; a rate without a baseline between 0 and 1; a mean without a deviation.
    """

    name: str
    kind: Literal["rate", "mean"]  # rate: a user's value lies in [0, 1]; mean: it has no bounds
    better: Literal["higher", "lower"]
    effect: float  # the least difference that matters, in the metric's unit: a gain to find, a loss not to be borne
    baseline: float | None = None  # the champion's expected value; asked of a rate, whose deviation follows from it
    deviation: float | None = None  # expected standard deviation between users; asked of a mean
    unit: str = ""  # as people read it: s, JPY

    def __post_init__(self) -> None:
        if self.kind not in ("rate", "mean") or self.better not in ("higher", "lower"):
            raise ValueError(
                f"metric {self.name}: kind {self.kind!r} must be rate or mean, better {self.better!r} higher or lower"
            )
        if not 0 < self.effect < (1 if self.kind == "rate" else math.inf):
            raise ValueError(
                f"metric {self.name}: effect {self.effect:g} must be above 0{', below 1' * (self.kind == 'rate')}: "
                "the least difference that matters"
            )
        if self.kind == "rate" and not (self.baseline is not None and 0 < self.baseline < 1):
            raise ValueError(
                f"metric {self.name}: a rate needs a baseline between 0 and 1 (the champion's), not {self.baseline}"
            )
        if self.kind == "mean" and not (self.deviation is not None and 0 < self.deviation < math.inf):
            raise ValueError(
                f"metric {self.name}: a mean needs a deviation above 0 (standard, between users), not {self.deviation}"
            )

    @property
    def sign(self) -> int:
        """Of a difference that is a gain."""
        return 1 if self.better == "higher" else -1

    @property
    def spread(self) -> float:
        """Expected standard deviation between users."""
        if self.deviation is not None:
            return self.deviation
        assert self.baseline is not None  # a rate has one
        return math.sqrt(self.baseline * (1 - self.baseline))


@dataclass(frozen=True)
class Design:
    """One experiment: who sees the challenger, what is to get better, what must not get worse, and when it may end.

    The share holds for the whole experiment: another share is another experiment.

    Raises:
        ValueError: no primary metric, a name used twice, a share, alpha or power outside (0, 1), limits that cross, a
            shadow that is not held to JUDGED.
    """

    experiment: str  # id, and the salt of the assignment
    primary: tuple[Metric, ...]  # promoted for a gain in any, none being worse; alpha is divided by their number
    most_users: int  # of both arms, at which it ends in any case (planning.py says how many are needed)
    guardrails: tuple[Metric, ...] = ()  # stopped where one is worse by more than its effect
    share: float = 0.5  # of the users, who see the challenger; of the requests that a shadow gets copies of
    mode: Mode = "canary"
    alpha: float = 0.05  # chance of a false verdict on the primary metrics, over all looks; as much on the guardrails
    power: float = 0.8  # chance of finding an effect of the stated size; where the intervals are tightest
    least_users: int = 100  # of each arm, before a promotion
    least_seconds: float = 0.0  # before a promotion: a day or a week that must be seen whole
    most_seconds: float = 90 * 86400.0  # after which it ends in any case

    def __post_init__(self) -> None:
        names = [metric.name for metric in self.primary + self.guardrails]
        if self.mode == "shadow" and not set(JUDGED) <= {metric.name for metric in self.guardrails}:
            raise ValueError(
                f"experiment {self.experiment}: a shadow is judged by the guardrails {' and '.join(JUDGED)}: state both"
            )
        if not self.primary:
            raise ValueError(f"experiment {self.experiment}: no primary metric: name what is to get better")
        if len(set(names)) < len(names):
            raise ValueError(f"experiment {self.experiment}: metrics {names}: each name may stand once")
        for name in ("share", "alpha", "power"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"experiment {self.experiment}: {name} {getattr(self, name):g} must be in (0, 1)")
        if not 0 < 2 * self.least_users <= self.most_users:
            raise ValueError(
                f"experiment {self.experiment}: least_users {self.least_users} of each arm must be above 0, "
                f"and both arms within most_users {self.most_users}"
            )
        if not 0 <= self.least_seconds < self.most_seconds:
            raise ValueError(
                f"experiment {self.experiment}: least_seconds {self.least_seconds:g} must be 0 or more, "
                f"and below most_seconds {self.most_seconds:g}"
            )


def design(config: Mapping[str, Any]) -> Design:
    """A design from what `dataclasses.asdict` makes of one, as JSON keeps it.

    Raises:
        ValueError: an unknown or a missing key, or what `Design` and `Metric` refuse.
    """
    parts = {name: tuple(_built(Metric, each) for each in config.get(name, ())) for name in ("primary", "guardrails")}
    return _built(Design, {**config, **parts})


def _built(kind: type, config: Mapping[str, Any]) -> Any:
    known = [field.name for field in fields(kind)]
    if unknown := sorted(set(config) - set(known)):
        raise ValueError(f"{kind.__name__}: unknown {', '.join(unknown)}: known are {', '.join(known)}")
    try:
        return kind(**config)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from error
