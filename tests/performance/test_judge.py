from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from migrate.gate import Outcome, Verdict, decide
from migrate.performance.judge import judge
from tests.performance.blocks import collected


def judged(records: list[dict[str, Any]], limit: float = 1.5) -> dict[str, Verdict]:
    return {verdict.check: verdict for verdict in judge(records, limit)}


def scaled(factor: float) -> Callable[[str, random.Random], float]:
    """vLLM takes `factor` as long as Triton."""
    return lambda side, chance: chance.uniform(0.09, 0.11) * (factor if side == "gateway" else 1.0)


def erring(side: str, every: int = 1) -> Callable[[dict[str, Any]], None]:
    """Every n-th request of a side fails."""
    seen = 0

    def spoil(record: dict[str, Any]) -> None:
        nonlocal seen
        if record["side"] == side:
            seen += 1
            if seen % every == 0:
                record.update(error="HTTP 503", tokens_out=None, characters_out=0)

    return spoil


BROKEN = {
    "no records": [],
    "no closing record": collected()[:-1],
    "a record lost": collected()[1:],
    "warm-up only": collected(spoil=lambda record: record.update(phase="warmup")),
    "one side only": collected(spoil=lambda record: record.update(side="triton")),
    "Triton dead": collected(spoil=erring("triton")),
}


@pytest.mark.parametrize("records", BROKEN.values(), ids=BROKEN.keys())
def test_unusable_evidence_is_an_error(records: list[dict[str, Any]]) -> None:
    (only,) = judge(records, 1.5)
    assert (only.check, only.verdict) == ("performance_records", Outcome.ERROR)
    assert only.detail
    assert only.advice


def test_a_dead_gateway_fails_latency_and_errors() -> None:
    verdicts = judged(collected(spoil=erring("gateway")))
    assert verdicts["performance_errors"].verdict is Outcome.FAIL
    assert verdicts["performance_latency_c1"].verdict is Outcome.FAIL
    assert "inf" in verdicts["performance_latency_c1"].measured


def test_a_slower_vllm_fails() -> None:
    verdict = judged(collected(scaled(1.8)))["performance_latency_c1"]
    assert verdict.verdict is Outcome.FAIL
    assert verdict.measured.startswith("p50 × 1.78 (")
    assert verdict.advice


def test_a_ratio_at_the_margin_is_inconclusive() -> None:
    assert judged(collected(scaled(1.5)))["performance_latency_c1"].verdict is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(("pairs", "requests"), [(4, 20), (6, 3)])
@pytest.mark.parametrize("factor", [0.5, 5.0])
def test_too_few_samples_decide_nothing(pairs: int, requests: int, factor: float) -> None:
    verdict = judged(collected(scaled(factor), pairs=pairs, requests=requests))["performance_latency_c1"]
    assert verdict.verdict is Outcome.INCONCLUSIVE
    assert "performance_duration_s" in verdict.advice


def test_blocks_that_disagree_widen_the_interval() -> None:
    steady = {"value": 0}

    def drifting(side: str, chance: random.Random) -> float:
        steady["value"] += 1
        slow_block = steady["value"] // 40 % 2
        return 0.1 * (2.2 if side == "gateway" and slow_block else 1.0)

    assert judged(collected(drifting))["performance_latency_c1"].verdict is Outcome.INCONCLUSIVE


def test_a_few_errors_of_the_gateway_fail_where_triton_has_none() -> None:
    verdict = judged(collected(spoil=erring("gateway", every=40)))["performance_errors"]
    assert verdict.verdict is Outcome.FAIL
    assert verdict.measured == "triton 0 of 120, gateway 3 of 120"
    assert verdict.detail == "most often: 3 × HTTP 503"


def test_as_fast_passes_and_shows_both_sides() -> None:
    verdicts = judge(collected(), 1.5)
    assert decide(verdicts) is Outcome.PASS
    latency = verdicts[-1]
    assert "p95" not in latency.measured
    assert "tok/s" in latency.detail
    assert "TTFT" not in latency.detail


def test_p95_is_shown_from_two_hundred_requests_and_gated_from_two_thousand() -> None:
    def tailed(side: str, chance: random.Random) -> float:
        return 1.0 if side == "gateway" and chance.random() < 0.1 else 0.1

    few = judged(collected(tailed, requests=40))["performance_latency_c1"]
    assert few.verdict is Outcome.PASS
    assert "p95 × 10" in few.measured
    many = judged(collected(tailed, requests=340))["performance_latency_c1"]
    assert many.verdict is Outcome.FAIL


def test_streams_show_the_time_to_the_first_text() -> None:
    assert "TTFT p50 25 ms" in judged(collected(stream=True))["performance_latency_c1"].detail


def test_without_token_counts_the_rate_is_in_characters() -> None:
    records = collected(spoil=lambda record: record.update(tokens_out=None))
    assert "char/s" in judged(records)["performance_latency_c1"].detail


def test_an_unstable_warm_up_is_named() -> None:
    records = collected()
    records[-1]["warm_up"][0]["stable"] = False
    assert "not stable: triton at 1" in judged(records)["performance_records"].detail
