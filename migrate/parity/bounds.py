"""Exact bounds of a rate, the decision they allow, and how many trials would settle it.

Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26
(1934): for k of n, one-sided at confidence 1 - a,

    lower = Beta⁻¹(a; k, n - k + 1), 0 for k = 0        upper = Beta⁻¹(1 - a; k + 1, n - k), 1 for k = n

With no event the upper bound is 1 - a^(1/n), near 3/n at 95 %. A bootstrap would give [0, 0] there and pass at any n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from migrate.gate import Outcome

_LARGEST_N = 20_000


@dataclass(frozen=True, slots=True)
class Rate:
    """`events` of `trials`, with one-sided bounds, each at `confidence`."""

    events: int
    trials: int
    confidence: float = 0.95

    @property
    def value(self) -> float:
        """The observed rate; NaN without a trial."""
        return self.events / self.trials if self.trials else math.nan

    @property
    def lower(self) -> float:
        """The exact lower bound."""
        if self.events == 0:
            return 0.0
        return float(beta.ppf(1 - self.confidence, self.events, self.trials - self.events + 1))

    @property
    def upper(self) -> float:
        """The exact upper bound; 1 without a trial."""
        if self.events == self.trials:
            return 1.0
        return float(beta.ppf(self.confidence, self.events + 1, self.trials - self.events))

    def decide(self, margin: float) -> Outcome:
        """Fail above the margin, pass below it, and inconclusive while the bounds lie on both sides of it."""
        if self.trials and self.lower > margin:
            return Outcome.FAIL
        return Outcome.PASS if self.upper < margin else Outcome.INCONCLUSIVE

    def trials_to_settle(self, margin: float) -> int | None:
        """The least number of trials that decides if the observed rate persists; None beyond 20,000."""
        if not self.trials:
            return None
        n = np.arange(self.trials, _LARGEST_N + 1)
        if self.value < margin:
            k = np.ceil(self.value * n)
            settled = beta.ppf(self.confidence, k + 1, n - k) < margin
        else:
            k = np.floor(self.value * n)
            settled = beta.ppf(1 - self.confidence, k, n - k + 1) > margin
        return int(n[settled.argmax()]) if settled.any() else None

    def __str__(self) -> str:
        bounds = f"{self.lower:.1%} to {self.upper:.1%}"
        return f"{self.events} of {self.trials} ({self.value:.1%}, bounds {bounds} at {self.confidence:.0%} each)"
