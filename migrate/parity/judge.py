"""Decides from collected records whether vLLM answers as Triton does. Pure: no host, no clock, no files.

The gated figure is the *excess* of mismatches over noise. Four arms per prompt (each side twice) give it exactly: a
prompt counts where the sides differ (class near, real, length or missing) although each side repeats itself. A side
that does not repeat itself differs from the other in at least one of the four pairs, so noise is part of difference and

    excess = P(sides differ) - P(a side differs from itself) = P(sides differ, and both repeat themselves) = k / n

is one binomial rate, with exact one-sided Clopper-Pearson bounds (`bounds`). The rule is non-inferiority: pass only
when the upper bound is below the margin, fail when the lower bound is above it, inconclusive otherwise, with the n that
would settle it. Without any mismatch a margin of 5 % needs 59 prompts, 2 % needs 149, 1 % needs 299: fewer can only
say fail or inconclusive, however well they look.

A tie is shown beside and not gated: kernels differ by less than its 0.1 nat. A near miss is gated, since penalties and
stop rules that were mapped wrongly look like it. `format` is the gateway's to mend, and gated on the gateway's text.
Sources: reference/verification.md §2; vLLM tests/models/utils.py (first divergence, alternatives); github/scientist
(random order, an error on one side is a mismatch).
"""

from __future__ import annotations

from collections.abc import Sequence

from migrate.evidence import Evidence, Record, commonest_error
from migrate.gate import Outcome, Verdict
from migrate.parity import control
from migrate.parity.bounds import Rate
from migrate.parity.gateway import judge_gateway
from migrate.parity.logprobs import judge_logprobs
from migrate.parity.prompts import PROMPTS
from migrate.parity.trials import TRITON, VLLM, Trial, kinds, trials_of

CHECKS = ("parity_records", "parity_text", "parity_logprobs", "parity_gateway", "parity_control")
NOISE_CEILING = 0.10  # above it a side repeats itself too seldom for any comparison to have power
_EXAMPLES = 5
_CONTINUE = "then: migrate continue"


def judge(records: Sequence[Record], max_mismatch_rate: float, seed: int = 1) -> list[Verdict]:
    """One verdict per name in `CHECKS`; unusable evidence gives an error in `parity_records` and no other verdict.

    `records` are the collector's, closing record included; `max_mismatch_rate` is a share of prompts; `seed` chooses
    what the negative control corrupts.
    """
    evidence = Evidence.of(records)
    trials = trials_of(evidence.records, int(evidence.trailer.get("prompts", 0)))
    sound = _judge_records(evidence, trials)
    if sound.verdict is Outcome.ERROR:
        return [sound]
    return [
        sound,
        _judge_text(trials, max_mismatch_rate),
        judge_logprobs(trials),
        judge_gateway(trials),
        _judge_control(evidence.records, trials, max_mismatch_rate, seed),
    ]


def _judge_records(evidence: Evidence, trials: Sequence[Trial]) -> Verdict:
    noise = _triton_noise(trials)
    broken = _why_unusable(evidence, trials, noise)
    return Verdict(
        "parity_records",
        Outcome.ERROR if broken else Outcome.PASS,
        expected=f"a complete collection; Triton repeats itself on {1 - NOISE_CEILING:.0%} of prompts or more",
        measured=f"{len(evidence.records)} records of {len(trials)} prompts; Triton differs from itself on {noise}",
        detail=". ".join(filter(None, (broken, _failures(evidence.records)))),
        advice=f"read the collector's messages in the run's raw folder, mend the cause, {_CONTINUE}" if broken else "",
    )


def _failures(records: Sequence[Record]) -> str:
    worst = commonest_error(records)
    return f"failed requests, most often: {worst}" if worst else ""


def _why_unusable(evidence: Evidence, trials: Sequence[Trial], noise: Rate) -> str:
    answered = [trial for trial in trials if len(trial.present(TRITON)) == len(TRITON)]
    if not evidence.records:
        return "there are no records"
    if not evidence.complete:
        return "the collection is not complete: its closing record is missing or counts other records"
    if 2 * len(answered) < len(trials):
        return f"Triton answered twice for only {len(answered)} of {len(trials)} prompts: nothing to compare with"
    if 2 * sum(1 for trial in answered if trial.present(TRITON)[0].text) < len(answered):
        return "more than half of Triton's answers are empty: agreement on them says nothing"
    if noise.value > NOISE_CEILING:
        return f"Triton does not repeat itself on more than {NOISE_CEILING:.0%} of prompts: set it to greedy decoding"
    return ""


def _judge_text(trials: Sequence[Trial], margin: float) -> Verdict:
    excess = Rate(sum(trial.mismatch for trial in trials), len(trials))
    vllm_noise = Rate(sum(not trial.vllm_repeats for trial in trials), len(trials))
    outcome = excess.decide(margin)
    if vllm_noise.value > NOISE_CEILING and outcome is Outcome.PASS:
        outcome = Outcome.INCONCLUSIVE
    noise = f"Triton against itself: {_triton_noise(trials)}; vLLM against itself: {vllm_noise}"
    return Verdict(
        "parity_text",
        outcome,
        expected=f"excess of greedy mismatches below {margin:.1%} of prompts",
        measured=str(excess),
        detail=f"{noise}. Classes: {kinds(trials)}. {_examples(trials)}".strip(),
        advice=_advice(outcome, excess, margin),
    )


def _triton_noise(trials: Sequence[Trial]) -> Rate:
    return Rate(sum(not trial.triton_repeats for trial in trials), len(trials))


def _examples(trials: Sequence[Trial]) -> str:
    found = [trial for trial in trials if trial.mismatch][:_EXAMPLES]
    places = [f"prompt {trial.prompt_id} {_place(trial)}" for trial in found]
    return f"First mismatches: {'; '.join(places)}." if places else ""


def _place(trial: Trial) -> str:
    kind, position = trial.across.kind, trial.across.position
    return str(kind) if position is None else f"{kind} at {position}"


def _advice(outcome: Outcome, excess: Rate, margin: float) -> str:
    if outcome is Outcome.PASS:
        return ""
    if outcome is Outcome.FAIL:
        return f"see why requests fail, compare dtype, max_tokens, stop words and penalties of both, {_CONTINUE}"
    n = excess.trials_to_settle(margin)
    count = f"{n} prompts would settle it at this rate" if n else "20,000 prompts would not settle it at this rate"
    more = "set parity_prompts, or " if n and n <= len(PROMPTS) else f"{len(PROMPTS)} are built in; "
    return f"{count}: {more}give a reason in migrate_accept_inconclusive, {_CONTINUE}"


def _judge_control(records: Sequence[Record], trials: Sequence[Trial], margin: float, seed: int) -> Verdict:
    changed, chosen = control.corrupt(records, control.corruptible(trials), len(trials), seed)
    again = trials_of(changed, len(trials))
    seen = chosen & {trial.prompt_id for trial in again if trial.mismatch}
    verdict = _judge_text(again, margin).verdict
    works = seen == chosen and verdict is not Outcome.PASS
    outcome = Outcome.ERROR if not works else Outcome.PASS if chosen else Outcome.INCONCLUSIVE
    return Verdict(
        "parity_control",
        outcome,
        expected="one token changed in a fifth of vLLM's answers: every change is seen, the verdict is not pass",
        measured=f"{len(seen)} of {len(chosen)} changes seen in {len(trials)} prompts, verdict {verdict}",
        detail=f"arms {', '.join(VLLM)}, seed {seed}" if chosen else "no agreeing answer is left to change",
        advice="" if works else "the comparison itself is broken: report it as a defect, with the raw records",
    )
