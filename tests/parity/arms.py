"""Collected parity records, made up prompt by prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

ARMS = ("triton_1", "triton_2", "vllm_1", "vllm_2", "gateway_1")
Spoil = Callable[[dict[str, Any]], None]


def record(prompt: int, arm: str) -> dict[str, Any]:
    """A good answer of one arm, the same in all of them."""
    ids = [100 + prompt, 7, 8, 9]
    told: dict[str, Any] = {"token_ids": None, "logprobs": None, "top_logprobs": None}
    if arm != "gateway_1":
        told |= {"token_ids": ids, "logprobs": [-0.1, -0.2 - prompt / 1000, -0.3, -0.4]}
    if arm.startswith("vllm"):
        told["top_logprobs"] = [{str(token): -0.1, "55": -0.15, "66": -3.0} for token in ids]
    text = f" w{prompt} seven eight nine"
    rest = {"finish_reason": None, "latency_s": 0.1, "error": None}
    return {"prompt_id": prompt, "prompt": f"prompt {prompt}", "arm": arm, "text": text, **told, **rest}


def collected(prompts: int, spoil: Spoil = lambda record: None, arms: Sequence[str] = ARMS) -> list[dict[str, Any]]:
    """A complete collection, each record handed to `spoil` first."""
    records = [record(prompt, arm) for prompt in range(prompts) for arm in arms]
    for one in records:
        spoil(one)
    return [*records, {"complete": True, "records": len(records), "prompts": prompts, "arms": list(arms)}]


def fail(one: dict[str, Any]) -> None:
    """Turn a record into that of a failed request."""
    one.update(text=None, token_ids=None, logprobs=None, top_logprobs=None, error="HTTP 500")


def differ(one: dict[str, Any], token: int = 77) -> None:
    """Change the second token, and the text with it."""
    one["token_ids"] = [one["token_ids"][0], token, 1, 2] if one["token_ids"] else None
    one["text"] = f" w{one['prompt_id']} other"
