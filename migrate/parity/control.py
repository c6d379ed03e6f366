"""The negative control: the same evidence with one token changed in a fifth of vLLM's answers must not pass.

A comparison that cannot fail proves nothing: vllm_backend's own accuracy test compared None with None for years. Both
of vLLM's arms are changed alike, since a change in one alone would be its noise.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from migrate.evidence import Record
from migrate.parity.compare import Kind
from migrate.parity.trials import VLLM, Trial

SHARE = 0.20
_NO_TOKEN = -1
_MARK = "\N{REPLACEMENT CHARACTER}"


def corruptible(trials: Sequence[Trial]) -> list[int]:
    """The prompts whose answers agree everywhere and are not empty: a corruption is the only cause there."""
    return [
        trial.prompt_id
        for trial in trials
        if trial.across.kind is Kind.SAME and all(answer.text for answer in trial.present(VLLM))
    ]


def corrupt(records: Sequence[Record], prompts: Sequence[int], total: int, seed: int) -> tuple[list[Record], set[int]]:
    """A copy of the records with one token changed for 20 % of `total` prompts (of `prompts`), and which these are."""
    chance = random.Random(seed)  # noqa: S311 - a choice that can be repeated, no secret
    wanted = min(len(prompts), math.ceil(SHARE * total))
    chosen = {number: chance.random() for number in chance.sample(list(prompts), k=wanted)}
    copied = [
        _corrupted(record, chosen[record["prompt_id"]]) if _is_chosen(record, chosen) else record for record in records
    ]
    return copied, set(chosen)


def _is_chosen(record: Record, chosen: dict[int, float]) -> bool:
    return record["arm"] in VLLM and record["prompt_id"] in chosen


def _corrupted(record: Record, place: float) -> Record:
    text, ids = str(record["text"]), record.get("token_ids")
    at = int(place * len(text))
    changed: dict[str, Any] = {"text": text[:at] + _MARK + text[at + 1 :]}
    if ids:
        token = int(place * len(ids))
        changed["token_ids"] = [*ids[:token], _NO_TOKEN, *ids[token + 1 :]]
    return {**record, **changed}
