from __future__ import annotations

from typing import Any

import pytest

from migrate.gate import Outcome, Verdict, decide
from migrate.parity import control
from migrate.parity.judge import CHECKS, judge
from migrate.parity.trials import trials_of
from tests.parity.arms import ARMS, Spoil, collected, differ, fail, record


def judged(records: list[dict[str, Any]], margin: float = 0.05) -> dict[str, Verdict]:
    return {verdict.check: verdict for verdict in judge(records, margin)}


def on(arms: str, prompts: range, spoil: Spoil) -> Spoil:
    """Apply `spoil` to the arms whose name begins so, for these prompts."""

    def chosen(one: dict[str, Any]) -> None:
        if one["arm"].startswith(arms) and one["prompt_id"] in prompts:
            spoil(one)

    return chosen


BROKEN = {
    "no records": [],
    "no closing record": collected(60)[:-1],
    "a record lost": collected(60)[1:],
    "two collections": collected(60) + collected(60),
    "nothing asked": collected(0),
    "Triton failed": collected(60, on("triton", range(40), fail)),
    "Triton empty": collected(60, lambda one: one.update(text="")),
    "Triton does not repeat": collected(60, on("triton_2", range(7), differ)),
}


@pytest.mark.parametrize("records", BROKEN.values(), ids=BROKEN.keys())
def test_unusable_evidence_is_an_error(records: list[dict[str, Any]]) -> None:
    (only,) = judge(records, 0.05)
    assert (only.check, only.verdict) == ("parity_records", Outcome.ERROR)
    assert only.detail
    assert only.advice
    assert decide([only], wanted=CHECKS) is Outcome.ERROR


FAILING = {
    "other text": on("vllm", range(15), differ),
    "cut short": on("vllm", range(15), lambda one: one.update(text=one["text"][:-5], token_ids=one["token_ids"][:-1])),
    "no answer": on("vllm", range(15), fail),
    "no answer once": on("vllm_2", range(15), fail),
    "no ids": on("vllm", range(15), lambda one: one.update(text=" x", token_ids=None)),
    "sampled": on("vllm", range(15), lambda one: differ(one, token=66)),
}


@pytest.mark.parametrize("spoil", FAILING.values(), ids=FAILING.keys())
def test_a_quarter_of_mismatches_fails(spoil: Spoil) -> None:
    verdict = judged(collected(60, spoil))["parity_text"]
    assert verdict.verdict is Outcome.FAIL
    assert verdict.measured.startswith("15 of 60")
    assert verdict.advice


def test_a_rate_above_the_margin_that_may_be_chance_is_inconclusive() -> None:
    verdict = judged(collected(60, on("vllm", range(4), differ)))["parity_text"]
    assert verdict.measured.startswith("4 of 60 (6.7%")
    assert verdict.verdict is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("prompts", "margin", "outcome"),
    [(58, 0.05, Outcome.INCONCLUSIVE), (59, 0.05, Outcome.PASS), (66, 0.02, Outcome.INCONCLUSIVE)],
)
def test_agreement_passes_only_with_enough_prompts(prompts: int, margin: float, outcome: Outcome) -> None:
    assert judged(collected(prompts), margin)["parity_text"].verdict is outcome


def test_too_few_prompts_say_how_many_would_settle_it() -> None:
    verdict = judged(collected(50))["parity_text"]
    assert verdict.verdict is Outcome.INCONCLUSIVE
    assert "59 prompts would settle it at this rate: set parity_prompts" in verdict.advice


def test_more_prompts_than_there_are_is_not_advised() -> None:
    advice = judged(collected(50), margin=0.02)["parity_text"].advice
    assert "149 prompts would settle it" in advice
    assert "set parity_prompts" not in advice


def test_good_evidence_passes_every_check() -> None:
    verdicts = judge(collected(66), 0.05)
    assert tuple(verdict.check for verdict in verdicts) == CHECKS
    assert decide(verdicts, wanted=CHECKS) is Outcome.PASS


def test_failed_requests_are_shown_with_their_error() -> None:
    verdict = judged(collected(60, on("vllm", range(2), fail)))["parity_records"]
    assert verdict.detail == "failed requests, most often: 4 × HTTP 500"


def test_noise_of_a_side_is_not_counted_but_shown() -> None:
    verdict = judged(collected(66, on("triton_2", range(4), differ)))["parity_text"]
    assert verdict.verdict is Outcome.PASS
    assert "Triton against itself: 4 of 66" in verdict.detail


def test_a_noisy_vllm_cannot_pass() -> None:
    assert judged(collected(66, on("vllm_2", range(10), differ)))["parity_text"].verdict is Outcome.INCONCLUSIVE


def test_a_tie_is_shown_and_not_counted() -> None:
    verdict = judged(collected(66, on("triton", range(10), lambda one: differ(one, token=55))))["parity_text"]
    assert verdict.verdict is Outcome.PASS
    assert "tie 10" in verdict.detail


def test_a_near_miss_is_counted() -> None:
    verdict = judged(collected(66, on("triton", range(20), lambda one: differ(one, token=66))))["parity_text"]
    assert verdict.verdict is Outcome.FAIL
    assert "near 20" in verdict.detail


class TestGateway:
    def test_one_altered_text_fails(self) -> None:
        verdict = judged(collected(66, on("gateway", range(1), lambda one: one.update(text=one["text"].strip()))))
        assert verdict["parity_gateway"].verdict is Outcome.FAIL

    def test_one_missing_answer_fails(self) -> None:
        assert judged(collected(66, on("gateway", range(1), fail)))["parity_gateway"].verdict is Outcome.FAIL

    def test_not_measured_is_inconclusive(self) -> None:
        assert judged(collected(66, arms=ARMS[:4]))["parity_gateway"].verdict is Outcome.INCONCLUSIVE

    def test_where_triton_echoes_the_prompt_the_gateway_must(self) -> None:
        def echo(one: dict[str, Any]) -> None:
            one["text"] = one["prompt"] + one["text"]

        without = judged(collected(66, on("triton", range(66), echo)))
        assert without["parity_gateway"].verdict is Outcome.FAIL
        assert "format 66" in without["parity_text"].detail

        def both(one: dict[str, Any]) -> None:
            if not one["arm"].startswith("vllm"):
                echo(one)

        assert judged(collected(66, both))["parity_gateway"].verdict is Outcome.PASS


class TestLogprobs:
    def test_a_value_that_is_not_finite_fails(self) -> None:
        spoilt = on("vllm_1", range(3, 4), lambda one: one.update(logprobs=[float("nan"), -1, -1, -1]))
        assert judged(collected(66, spoilt))["parity_logprobs"].verdict is Outcome.FAIL

    def test_a_shift_of_all_values_fails(self) -> None:
        shift = on("vllm", range(66), lambda one: one.update(logprobs=[value - 0.05 for value in one["logprobs"]]))
        verdict = judged(collected(66, shift))["parity_logprobs"]
        assert verdict.verdict is Outcome.FAIL
        assert "mean |Δ| 0.05" in verdict.measured

    def test_values_on_one_side_only_are_inconclusive(self) -> None:
        silent = on("triton", range(66), lambda one: one.update(logprobs=None, token_ids=None))
        assert judged(collected(66, silent))["parity_logprobs"].verdict is Outcome.INCONCLUSIVE

    def test_nothing_after_the_divergence_counts(self) -> None:
        def part(one: dict[str, Any]) -> None:
            differ(one, token=55)
            one["logprobs"] = [one["logprobs"][0], -9.0, -9.0, -9.0]

        assert judged(collected(66, on("vllm", range(66), part)))["parity_logprobs"].verdict is Outcome.PASS


class TestControl:
    def test_corrupted_evidence_never_passes_and_is_seen_whole(self) -> None:
        *records, _ = collected(66)
        for seed in range(20):
            changed, chosen = control.corrupt(records, range(66), 66, seed)
            trials = trials_of(changed, 66)
            assert {trial.prompt_id for trial in trials if trial.mismatch} == chosen
            assert len(chosen) == 14
            closing = {"complete": True, "records": len(changed), "prompts": 66}
            verdicts = {v.check: v.verdict for v in judge([*changed, closing], 0.05, seed)}
            assert verdicts["parity_text"] is Outcome.FAIL

    def test_a_judge_that_sees_nothing_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(control, "corrupt", lambda records, prompts, total, seed: (list(records), set(range(14))))
        assert judged(collected(66))["parity_control"].verdict is Outcome.ERROR

    def test_without_an_agreeing_answer_it_cannot_tell(self) -> None:
        verdicts = judged(collected(66, on("vllm", range(66), differ)))
        assert verdicts["parity_control"].verdict is Outcome.INCONCLUSIVE
        assert verdicts["parity_text"].verdict is Outcome.FAIL

    def test_it_leaves_the_evidence_itself_alone(self) -> None:
        records = [record(prompt, arm) for prompt in range(30) for arm in ARMS]
        before = [dict(one) for one in records]
        control.corrupt(records, range(30), 30, 1)
        assert records == before
