"""What physics allows: a token cannot come before its weights were read. Promises are judged against that.

Each step of decoding reads every active weight and every stream's KV cache once, so `streams` streams together make at
most `streams x bandwidth / (weights + streams x cache)` tokens a second; only speculative decoding, which checks
several tokens in one step, gets past that. A prompt costs 2 operations for each parameter and token ("Efficiently
Scaling Transformer Inference", arXiv:2211.05102, section 2), at most at the card's peak. Real engines stay below: Phi-2
on an H200 made 360 of 906 tokens a second for one stream (docs/fit.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from migrate.fit import kv as kvs
from migrate.fit.cards import Card
from migrate.fit.memory import Model, Setting


class Verdict(StrEnum):
    """`unlikely` is only said of energy: a card may draw less than its limit. `unknown`: data is missing."""

    POSSIBLE = "possible"
    UNLIKELY = "unlikely"
    IMPOSSIBLE = "impossible"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Expectations:
    """What somebody promised; None is no promise. `context` tokens are cached already, `prompt` tokens are to come,
    `streams` requests run at once and `tokens_per_s` counts all of them."""

    tokens_per_s: float | None = None
    ttft_s: float | None = None
    joules_per_token: float | None = None
    context: int = 0
    prompt: int = 1
    streams: int = 1


@dataclass(frozen=True, slots=True)
class Judgement:
    """A promise, the bound that it is held against, and why."""

    promise: str
    promised: float
    bound: float | None
    verdict: Verdict
    because: str


def bound(bytes_per_token: float, bandwidth: float) -> float:
    """Tokens a second that one stream gets at most: bytes a second over bytes a token."""
    return bandwidth / bytes_per_token


def tokens_per_s(model: Model, card: Card, setting: Setting, expected: Expectations) -> float | None:
    """The most tokens a second of all streams together; None where the model's reads are not known."""
    read = model.weights.read
    if read is None:
        return None
    cache = kvs.measure(model.config, setting.kv_dtype).read(expected.context)
    busy = setting.tensor_parallel * min(setting.pipeline_parallel, expected.streams)
    step = bound(read + expected.streams * cache, card.bandwidth_gbs * 1e9 * busy)
    return expected.streams * step


def ttft_s(model: Model, card: Card, setting: Setting, expected: Expectations) -> float | None:
    """The least time to the first token: the prompt's arithmetic at peak, or one reading of the weights."""
    weights = model.weights
    if weights.read is None:
        return None
    arithmetic = 2 * weights.active * expected.prompt / (_peak(card, weights.scheme) * setting.cards)
    return max(arithmetic, weights.read / (card.bandwidth_gbs * 1e9 * setting.tensor_parallel))


def judge(model: Model, card: Card, setting: Setting, expected: Expectations) -> tuple[Judgement, ...]:
    """Each promise against its bound, in the order of `Expectations`. No error is raised."""
    speed = tokens_per_s(model, card, setting, expected)
    found = []
    if expected.tokens_per_s is not None:
        found.append(_speed(expected, speed, model, card))
    if expected.ttft_s is not None:
        found.append(_first(expected.ttft_s, ttft_s(model, card, setting, expected), expected.prompt))
    if expected.joules_per_token is not None:
        found.append(_energy(expected.joules_per_token, speed, card.power_w * setting.cards))
    return tuple(found)


def _peak(card: Card, scheme: str) -> float:
    """Operations a second. 8-bit schemes also compute in 8 bits; what 4-bit floats reach is not in `cards.yaml`."""
    if scheme in ("NVFP4", "MXFP4"):
        return math.inf
    if scheme == "FP8" or scheme.endswith("8-bit"):
        return max(card.fp8_tflops, 2 * card.fp16_tflops) * 1e12
    return card.fp16_tflops * 1e12


def _speed(expected: Expectations, most: float | None, model: Model, card: Card) -> Judgement:
    promised = expected.tokens_per_s or 0.0
    if most is None:
        return _unknown("tok/s", promised)
    verdict = Verdict.POSSIBLE if promised <= most else Verdict.IMPOSSIBLE
    because = (
        f"{promised:,.0f} of at most {most:,.0f} tok/s ({promised / most:.0%}): {card.bandwidth_gbs:,.0f} GB/s, "
        f"{(model.weights.read or 0) / 1e9:.2f} GB of weights a step, {expected.streams} stream(s), "
        f"{expected.context:,} tokens cached, no speculative decoding"
    )
    return Judgement("tok/s", promised, most, verdict, because)


def _first(promised: float, least: float | None, prompt: int) -> Judgement:
    if least is None:
        return _unknown("TTFT s", promised)
    verdict = Verdict.POSSIBLE if promised >= least else Verdict.IMPOSSIBLE
    return Judgement(
        "TTFT s", promised, least, verdict, f"{prompt:,} prompt tokens take at least {least * 1e3:,.1f} ms"
    )


def _energy(promised: float, most: float | None, power_w: int) -> Judgement:
    if most is None:
        return _unknown("J/token", promised)
    least = power_w / most
    verdict = Verdict.POSSIBLE if promised >= least else Verdict.UNLIKELY
    because = (
        f"{power_w} W at {most:,.0f} tok/s are {least:.2f} J a token; less only if the card draws less than its limit"
    )
    return Judgement("J/token", promised, least, verdict, because)


def _unknown(promise: str, promised: float) -> Judgement:
    return Judgement(promise, promised, None, Verdict.UNKNOWN, "what a token of this architecture reads is not known")
