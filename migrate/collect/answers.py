"""Reads the answers of both protocols into one shape.

Sources: Triton's generate extension (a one-element output is a scalar, a longer one a list), vLLM's OpenAI
completions with `return_token_ids` and `return_tokens_as_token_ids` (tokens are then written `token_id:<n>`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """A generated text with its token ids and log-probabilities (natural logarithm), None where not reported.

    `top_logprobs[t]` maps token ids (as decimal text) to log-probabilities at position t.
    """

    text: str | None
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    top_logprobs: list[dict[str, float]] | None = None
    finish_reason: str | None = None


def from_triton(payloads: Sequence[Mapping[str, Any]]) -> Answer:
    """The answer in the payloads of `generate` (one) or `generate_stream` (deltas).

    Raises ValueError without a text.
    """
    texts = [payload["text_output"] for payload in payloads if isinstance(payload.get("text_output"), str)]
    if not texts:
        raise ValueError(f"no text_output in the answer, only {sorted(payloads[-1]) if payloads else 'nothing'}")
    last = payloads[-1]
    return Answer(
        text="".join(texts),
        token_ids=_listed(last, "output_ids", int),
        logprobs=_listed(last, "log_probs", float),
        finish_reason=last.get("finish_reason"),
    )


def from_completion(payload: Mapping[str, Any]) -> Answer:
    """The first choice of a `/v1/completions` answer. Raises ValueError where there is none."""
    choices = payload.get("choices")
    if not choices or not isinstance(choices[0].get("text"), str):
        raise ValueError("no choice with a text in the answer")
    choice = choices[0]
    logprobs = choice.get("logprobs") or {}
    return Answer(
        text=choice["text"],
        token_ids=choice.get("token_ids") or _ids(logprobs.get("tokens")),
        logprobs=logprobs.get("token_logprobs"),
        top_logprobs=_tops(logprobs.get("top_logprobs")),
        finish_reason=choice.get("finish_reason"),
    )


def output_tokens(payloads: Sequence[Mapping[str, Any]]) -> int | None:
    """How many tokens the server says it produced, or None where it does not say."""
    for payload in reversed(payloads):
        if isinstance(number := payload.get("num_output_tokens"), int):
            return number
        if (ids := _listed(payload, "output_ids", int)) is not None:
            return len(ids)
    return None


def _listed(payload: Mapping[str, Any], key: str, kind: type) -> list[Any] | None:
    value = payload.get(key)
    if value is None:
        return None
    return [kind(item) for item in (value if isinstance(value, list) else [value])]


def _ids(tokens: Sequence[str] | None) -> list[int] | None:
    if not tokens or not all(token.startswith("token_id:") for token in tokens):
        return None
    return [int(token.removeprefix("token_id:")) for token in tokens]


def _tops(tops: Sequence[Mapping[str, float] | None] | None) -> list[dict[str, float]] | None:
    if not tops:
        return None
    return [{key.removeprefix("token_id:"): value for key, value in (top or {}).items()} for top in tops]
