"""Log-probabilities of the same tokens on both sides, over the common beginning of the greedy answers.

The margin: an engine change at equal dtype stays at or below the Q8_0 row of llama.cpp#5076 (RMS Δp 0.4 %), which is
about 0.01 nat at p = 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from migrate.gate import Outcome, Verdict
from migrate.parity.compare import Answer, common_prefix
from migrate.parity.trials import TRITON, VLLM, Trial

MARGIN_NATS = 0.01
_CONFIDENCE = 0.95
_FEWEST_PROMPTS = 20


@dataclass(frozen=True, slots=True)
class Gap:
    """|Δ log p| in nats, clustered by prompt: mean of the prompts' means with one-sided bounds, and the largest."""

    prompts: int
    tokens: int
    mean: float
    lower: float
    upper: float
    largest: float

    @classmethod
    def of(cls, gaps: Sequence[Sequence[float]]) -> Gap:
        """Summarise the gaps of each prompt.

        Bounds are Student's t over prompts, since tokens of one prompt are related.
        """
        means = np.array([np.mean(gap) for gap in gaps])
        largest = max(max(gap) for gap in gaps)
        half = 0.0
        if len(means) > 1:
            half = float(student.ppf(_CONFIDENCE, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means)))
        mean = float(means.mean())
        return cls(len(gaps), sum(map(len, gaps)), mean, mean - half, mean + half, largest)

    def __str__(self) -> str:
        where = f"{self.tokens} tokens of {self.prompts} prompts"
        return (
            f"mean |Δ| {self.mean:.2g} nat ({self.lower:.2g} to {self.upper:.2g}), max {self.largest:.2g}, over {where}"
        )


def judge_logprobs(trials: Sequence[Trial]) -> Verdict:
    """Pass where the mean gap is surely below the margin, fail where it is surely above or a value is not finite."""
    across = _gaps(trials, TRITON[0], VLLM[0])
    within = _gaps(trials, *TRITON)
    outcome, detail = _decide(across)
    if outcome is not Outcome.FAIL and within and all(map(_finite, within)):
        detail = f"Triton against itself: {Gap.of(within)}. {detail}".strip()
    return Verdict(
        "parity_logprobs",
        outcome,
        expected=f"mean |Δ log p| below {MARGIN_NATS} nat on the common beginning",
        measured=str(Gap.of(across)) if across and all(map(_finite, across)) else "no usable values",
        detail=detail,
        advice="" if outcome is Outcome.PASS else _advice(outcome),
    )


def _decide(gaps: Sequence[Sequence[float]]) -> tuple[Outcome, str]:
    if not all(map(_finite, gaps)):
        return Outcome.FAIL, "a log-probability is not finite: the arithmetic of one side overflows"
    if len(gaps) < _FEWEST_PROMPTS:
        return (
            Outcome.INCONCLUSIVE,
            f"{len(gaps)} prompts have log-probabilities on both sides, {_FEWEST_PROMPTS} are needed",
        )
    gap = Gap.of(gaps)
    if gap.lower > MARGIN_NATS:
        return Outcome.FAIL, ""
    return (Outcome.PASS if gap.upper < MARGIN_NATS else Outcome.INCONCLUSIVE), ""


def _gaps(trials: Sequence[Trial], one: str, other: str) -> list[list[float]]:
    found = (_gap(trial.answers.get(one), trial.answers.get(other)) for trial in trials)
    return [gap for gap in found if gap]


def _gap(one: Answer | None, other: Answer | None) -> list[float]:
    if one is None or other is None or not one.token_ids or not other.token_ids:
        return []
    if one.logprobs is None or other.logprobs is None:
        return []
    length = common_prefix(one.token_ids, other.token_ids)
    pairs = zip(one.logprobs[:length], other.logprobs[:length], strict=False)
    return [abs(_number(a) - _number(b)) for a, b in pairs]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _finite(gap: Sequence[float]) -> bool:
    return all(map(math.isfinite, gap))


def _advice(outcome: Outcome) -> str:
    if outcome is Outcome.FAIL:
        return "compare dtype, weights and quantisation of both servers, then: migrate continue"
    return "let Triton's model return log_probs and output_ids, or set more parity_prompts, then: migrate continue"
