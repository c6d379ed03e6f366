"""The client's path: the gateway must return what vLLM said, in the form in which Triton would have said it."""

from __future__ import annotations

from collections.abc import Sequence

from migrate.gate import Outcome, Verdict
from migrate.parity.bounds import Rate
from migrate.parity.compare import echoes
from migrate.parity.trials import TRITON, VLLM, Trial

GATEWAY = "gateway_1"


def judge_gateway(trials: Sequence[Trial]) -> Verdict:
    """A hard gate: one text that the gateway altered, or one answer missing, fails. Not measured is inconclusive."""
    asked = [trial for trial in trials if GATEWAY in trial.answers]
    wrong = [trial for trial in asked if not _faithful(trial)]
    outcome = Outcome.FAIL if wrong else Outcome.PASS if len(asked) == len(trials) else Outcome.INCONCLUSIVE
    places = ", ".join(str(trial.prompt_id) for trial in wrong[:5])
    return Verdict(
        "parity_gateway",
        outcome,
        expected="every answer through the gateway is vLLM's text in Triton's form",
        measured=f"altered or missing: {Rate(len(wrong), len(asked))}" if asked else "not measured",
        detail=f"first prompts: {places}" if wrong else "",
        advice=_advice(outcome),
    )


def _faithful(trial: Trial) -> bool:
    answer = trial.answers[GATEWAY]
    if answer is None:
        return False
    triton, vllm = trial.present(TRITON), trial.present(VLLM)
    if answer.text in {one.text for one in triton}:
        return True
    if not trial.vllm_repeats:
        return True
    prefix = trial.prompt if any(echoes(one.text, trial.prompt) for one in triton) else ""
    return answer.text in {prefix + one.text for one in vllm}


def _advice(outcome: Outcome) -> str:
    if outcome is Outcome.PASS:
        return ""
    if outcome is Outcome.FAIL:
        return "compare the model's style (triton_models) with Triton's own answer, then: migrate continue"
    return "give the collector the gateway's address (client_path), then: migrate continue"
