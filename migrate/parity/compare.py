"""Compares two greedy answers up to their first divergence, and classes it.

Nothing after the first divergence is compared: from there on the two engines continue different texts (vLLM's own
`check_logprobs_close` stops there too). Classes at the first differing token t:

    tie      on the side with alternatives, top-1 leads both tokens by at most `TIE_NATS`
    near     both tokens are among that side's five best
    real     neither, or no alternatives were reported
    length   one answer is the beginning of the other (end of text, stop, max_tokens)
    format   the same but for an echoed prompt, edge whitespace or the decoding of equal tokens; never normalised away
    missing  one side has no answer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

TIE_NATS = 0.1


class Kind(StrEnum):
    """How two answers differ."""

    SAME = "same"
    TIE = "tie"
    NEAR = "near"
    REAL = "real"
    LENGTH = "length"
    FORMAT = "format"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Answer:
    """One collected answer; token ids, log-probabilities (nats) and alternatives where the server reported them."""

    text: str
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    top_logprobs: tuple[Mapping[str, float], ...] | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Answer | None:
        """The answer in a record; None for a failed request or one without a text."""
        if record.get("error") is not None or not isinstance(record.get("text"), str):
            return None
        return cls(
            record["text"],
            *(
                None if record.get(key) is None else tuple(record[key])
                for key in ("token_ids", "logprobs", "top_logprobs")
            ),
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """The class of a difference and the index of the first differing token (character where no ids were reported)."""

    kind: Kind
    position: int | None = None


def compare(reference: Answer | None, other: Answer | None, prompt: str) -> Difference:
    """The first divergence between a reference answer and another; alternatives are taken from `other`."""
    if reference is None or other is None:
        return Difference(Kind.MISSING)
    if reference.text == other.text:
        return Difference(Kind.SAME)
    if _bare(reference.text, prompt) == _bare(other.text, prompt):
        return Difference(Kind.FORMAT)
    if reference.token_ids is None or other.token_ids is None:
        return _by_sequence(reference.text, other.text)
    if reference.token_ids == other.token_ids:
        return Difference(Kind.FORMAT)
    found = _by_sequence(reference.token_ids, other.token_ids)
    if found.kind is not Kind.REAL or found.position is None:
        return found
    return Difference(_graded(reference, other, found.position), found.position)


def echoes(text: str, prompt: str) -> bool:
    """Whether an answer begins with its own prompt."""
    return bool(prompt) and text.startswith(prompt)


def common_prefix(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many leading items are equal."""
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _bare(text: str, prompt: str) -> str:
    return (text.removeprefix(prompt) if prompt else text).strip()


def _by_sequence(one: Sequence[Any], other: Sequence[Any]) -> Difference:
    position = common_prefix(one, other)
    is_prefix = position == min(len(one), len(other))
    return Difference(Kind.LENGTH if is_prefix else Kind.REAL, position)


def _graded(reference: Answer, other: Answer, position: int) -> Kind:
    tops = other.top_logprobs
    if reference.token_ids is None or other.token_ids is None or tops is None or position >= len(tops):
        return Kind.REAL
    both = [tops[position].get(str(ids[position])) for ids in (reference.token_ids, other.token_ids)]
    known = [logprob for logprob in both if logprob is not None]
    if len(known) < len(both):
        return Kind.REAL
    return Kind.TIE if max(tops[position].values()) - min(known) <= TIE_NATS else Kind.NEAR
