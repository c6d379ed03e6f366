"""Sampling parameters: every one that vLLM knows is set in every request, so that no server-side default decides.

vLLM takes what a request leaves out from the model's generation_config.json, and ignores names it does not know;
Triton's models do neither. Names and defaults: `vllm/sampling_params.py` and `CompletionRequest` of vLLM 0.31.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from migrate.gateway.errors import Code, InputError, TritonError

DEFAULTS: Mapping[str, Any] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "max_tokens": 16,
    "min_tokens": 0,
    "n": 1,
    "stop": [],
    "stop_token_ids": [],
    "include_stop_str_in_output": False,
    "ignore_eos": False,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "bad_words": [],
}
_WITHOUT_DEFAULT = frozenset({"seed", "logit_bias", "allowed_token_ids", "truncate_prompt_tokens"})
_NEUTRAL: Mapping[str, Any] = {
    "n": 1,
    "best_of": 1,
    "use_beam_search": False,
    "length_penalty": 1.0,
    "early_stopping": False,
    "detokenize": True,
}
_UNMAPPED = frozenset({"prompt_logprobs", "guided_decoding", "structured_outputs", "lora_name", "logits_processors"})
# vllm_backend shows log-probabilities through `return_logprobs` only, so on its own this one changes no answer.
_WITHOUT_EFFECT = frozenset({"logprobs"})


def from_json(text: str) -> dict[str, Any]:
    """The input `sampling_parameters`: a JSON object in a string. Raises InputError when it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(Code.INTERNAL, f"sampling_parameters is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(Code.INTERNAL, "sampling_parameters must be a JSON object")
    return found


def mapped(given: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM's names and types for vllm_backend's sampling parameters; a null means the default.

    Raises TritonError: UNSUPPORTED for what vLLM's completions cannot do, INVALID_ARG for unknown names or wrong types.
    """
    body: dict[str, Any] = {}
    for name, value in given.items():
        if value is None or name in _WITHOUT_EFFECT:
            continue
        if name in _NEUTRAL or name in _UNMAPPED:
            _require_neutral(name, value)
        elif name in DEFAULTS:
            body[name] = _typed(name, value, DEFAULTS[name])
        elif name == "seed":
            body[name] = _typed(name, value, 0)
        elif name in _WITHOUT_DEFAULT:
            body[name] = value
        else:
            raise TritonError(Code.INVALID_ARG, f"sampling parameter '{name}' is not known")
    return body


def _require_neutral(name: str, value: Any) -> None:
    if name in _UNMAPPED or str(value).lower() not in {str(_NEUTRAL[name]).lower(), str(int(_NEUTRAL[name]))}:
        raise TritonError(
            Code.UNSUPPORTED, f"sampling parameter '{name}' = {value!r} is not supported by the gateway to vLLM"
        )


def _typed(name: str, value: Any, example: Any) -> Any:
    """As vllm_backend does, a number may come as a string; unlike there, the text "false" is not true."""
    if isinstance(example, list):
        return value
    try:
        if isinstance(example, bool):
            return {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]
        if isinstance(value, bool):
            raise ValueError(name)
        return int(value) if isinstance(example, int) else float(value)
    except (KeyError, TypeError, ValueError, OverflowError):
        kind = type(example).__name__
        raise TritonError(Code.INVALID_ARG, f"sampling parameter '{name}' must be {kind}, got {value!r}") from None
