"""Keeps an answer inside the model's context, as Triton's models do; vLLM refuses what could be longer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

# A byte-level vocabulary has at most one token a byte, and at most a few special tokens around the prompt.
_SPECIAL_TOKENS = 8


class Counter(Protocol):
    """Who knows the lengths; `upstream.Upstream` does."""

    async def context_length(self, model: str) -> int: ...

    async def count_tokens(self, model: str, prompt: str) -> int: ...


async def fitted(body: Mapping[str, Any], counter: Counter) -> Mapping[str, Any]:
    """The body with a `max_tokens` that the context holds; a prompt that leaves no room is for vLLM to refuse.

    The prompt is counted only where its bytes do not already show that there is room.
    """
    model, prompt, wanted = str(body["model"]), str(body["prompt"]), int(body["max_tokens"])
    length = await counter.context_length(model)
    if not length or len(prompt.encode("utf-8")) + _SPECIAL_TOKENS + wanted <= length:
        return body
    room = length - await counter.count_tokens(model, prompt)
    return body if room < 1 else dict(body) | {"max_tokens": min(wanted, room)}
