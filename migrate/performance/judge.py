"""Decides from interleaved blocks whether vLLM's latency stays within the margin of Triton's. Pure.

Requests within a block are related, blocks are not: the ratio vLLM / Triton gets its interval by resampling *pairs of
blocks* that were neighbours in time (percentile bootstrap, seeded, 2,000 draws, 5 % and 95 %), with the requests of
the drawn blocks pooled: a quantile of pooled samples, never an average of quantiles. The upper bound must lie below
the margin to pass, the lower bound above it fails, anything else is inconclusive. Failed requests count as infinitely
slow.

p50 is gated at every concurrency; p95 is shown from 200 requests a side and gated from 2,000 (n·(1 - q) ≥ 10 and ≥
100). Fewer than five pairs of blocks or twenty requests a side decide nothing. Source: reference/verification.md
§3.3, §3.4, §3.6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from migrate.evidence import Evidence, Record, commonest_error
from migrate.gate import Outcome, Verdict
from migrate.performance.samples import NEW, OLD, Block, Level, first_quantile, levels_of, quantile, throughput

_DRAWS = 2_000
_SEED = 1
_FEWEST_PAIRS = 5
_FEWEST_REQUESTS = 20
_SHOW_P95 = 200
_GATE_P95 = 2_000
_MOST_MORE_ERRORS = 0.001


def judge(records: Sequence[Record], max_latency_ratio: float) -> list[Verdict]:
    """`performance_records`, `performance_errors`, and `performance_latency_c<N>` for each concurrency.

    `records` are the collector's, closing record included; unusable evidence gives one error and no other verdict.
    """
    evidence = Evidence.of(records)
    levels = levels_of(evidence.records)
    sound = _judge_records(evidence, levels)
    if sound.verdict is Outcome.ERROR:
        return [sound]
    return [
        sound,
        _judge_errors(levels, commonest_error(evidence.records)),
        *(_judge_latency(level, max_latency_ratio) for level in levels),
    ]


def _judge_records(evidence: Evidence, levels: Sequence[Level]) -> Verdict:
    broken = _why_unusable(evidence, levels)
    unstable = [warm for warm in evidence.trailer.get("warm_up", []) if not warm["stable"]]
    names = ", ".join(f"{warm['side']} at {warm['concurrency']}" for warm in unstable)
    return Verdict(
        "performance_records",
        Outcome.ERROR if broken else Outcome.PASS,
        expected="a complete collection of paired blocks in which Triton answers",
        measured=f"{len(evidence.records)} records, {sum(len(level.pairs) for level in levels)} pairs of blocks",
        detail=broken
        or (f"warm-up ended at its limit, not stable: {names}" if names else "warm-up stable on both sides"),
        advice="read the collector's messages in the run's raw folder, then: migrate continue" if broken else "",
    )


def _why_unusable(evidence: Evidence, levels: Sequence[Level]) -> str:
    if not evidence.records:
        return "there are no records"
    if not evidence.complete:
        return "the collection is not complete: its closing record is missing or counts other records"
    if not levels or not all(level.pairs for level in levels):
        return "a concurrency has no pair of blocks"
    dead = [level.concurrency for level in levels if all(_failed(block) for block in level.side(0))]
    return f"Triton answered nothing at concurrency {dead[0]}: there is nothing to compare with" if dead else ""


def _failed(block: Block) -> bool:
    return block.errors == len(block.latencies_s)


def _judge_errors(levels: Sequence[Level], commonest: str) -> Verdict:
    shares, texts = [], []
    for index, name in ((0, OLD), (1, NEW)):
        blocks = [block for level in levels for block in level.side(index)]
        errors, total = sum(block.errors for block in blocks), sum(len(block.latencies_s) for block in blocks)
        shares.append(errors / total)
        texts.append(f"{name} {errors} of {total}")
    good = shares[1] <= shares[0] + _MOST_MORE_ERRORS
    return Verdict(
        "performance_errors",
        Outcome.PASS if good else Outcome.FAIL,
        expected=f"the gateway fails at most {_MOST_MORE_ERRORS:.1%} of requests more than Triton",
        measured=", ".join(texts),
        detail=f"most often: {commonest}" if commonest else "",
        advice="" if good else "read the errors in raw/performance.jsonl and the gateway's log, then: migrate continue",
    )


def _judge_latency(level: Level, limit: float) -> Verdict:
    requests = [sum(len(block.latencies_s) for block in level.side(index)) for index in (0, 1)]
    middle = _ratio(level, 0.50)
    gated = [middle]
    text = f"p50 {_text(middle)}"
    if min(requests) >= _SHOW_P95:
        tail = _ratio(level, 0.95)
        text += f", p95 {_text(tail)}"
        gated += [tail] if min(requests) >= _GATE_P95 else []
    few = len(level.pairs) < _FEWEST_PAIRS or min(requests) < _FEWEST_REQUESTS
    outcome = Outcome.INCONCLUSIVE if few else _decide(gated, limit)
    sides = "; ".join(f"{name}: {_figures(level.side(index), requests[index])}" for index, name in ((0, OLD), (1, NEW)))
    return Verdict(
        f"performance_latency_c{level.concurrency}",
        outcome,
        expected=f"latency at concurrency {level.concurrency}: vLLM / Triton below {limit:g}",
        measured=text,
        detail=f"{sides}; {len(level.pairs)} pairs of blocks",
        advice=_advice(outcome, few),
    )


def _ratio(level: Level, share: float) -> tuple[float, float, float]:
    """The ratio of the pooled quantiles with its lower and upper bound."""
    draws = np.random.default_rng(_SEED).integers(len(level.pairs), size=(_DRAWS, len(level.pairs)))
    old, new = level.side(0), level.side(1)
    ratios = [
        _divide(quantile([new[i] for i in draw], share), quantile([old[i] for i in draw], share)) for draw in draws
    ]
    low, high = np.quantile(ratios, (0.05, 0.95), method="nearest")
    return _divide(quantile(new, share), quantile(old, share)), float(low), float(high)


def _divide(new: float, old: float) -> float:
    if math.isinf(old):
        return math.inf if math.isinf(new) else 0.0
    return new / old


def _decide(ratios: Sequence[tuple[float, float, float]], limit: float) -> Outcome:
    if any(low > limit for _, low, _ in ratios):
        return Outcome.FAIL
    return Outcome.PASS if all(high < limit for _, _, high in ratios) else Outcome.INCONCLUSIVE


def _text(ratio: tuple[float, float, float]) -> str:
    value, low, high = ratio
    return f"× {value:.2f} ({low:.2f} to {high:.2f})"


def _figures(blocks: Sequence[Block], requests: int) -> str:
    rate, unit = throughput(blocks)
    tail = f", p95 {_ms(quantile(blocks, 0.95))}" if requests >= _SHOW_P95 else ""
    first = first_quantile(blocks, 0.50)
    ttft = "" if first is None else f", TTFT p50 {_ms(first)}"
    return f"p50 {_ms(quantile(blocks, 0.50))}{tail}{ttft}, {rate:.0f} {unit}, {requests} requests"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _advice(outcome: Outcome, few: bool) -> str:
    if outcome is Outcome.PASS:
        return ""
    if outcome is Outcome.FAIL:
        return "look at vllm_args, vllm_cpu_limit and what shares the host, then: migrate continue"
    more = "raise performance_rounds or performance_duration_s" if few else "raise performance_duration_s"
    return f"{more}, or give a reason in migrate_accept_inconclusive, then: migrate continue"
