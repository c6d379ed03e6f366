"""TensorRT-LLM's ensemble: preprocessing, engine and postprocessing behind one model, as a question to vLLM.

Names and defaults: TensorRT-LLM's `triton_backend/all_models/inflight_batcher_llm/ensemble/config.pbtxt` and its
sampling documentation: without top_k and top_p the engine decodes greedily.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migrate.gateway.config import ModelConfig
from migrate.gateway.core.inference import Parameter
from migrate.gateway.errors import Code, InputError, TritonError
from migrate.gateway.mapping.question import Inputs, Question, body

_PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")
KNOWN = frozenset(
    {
        "text_input",
        "max_tokens",
        "min_tokens",
        "bad_words",
        "stop_words",
        "end_id",
        "top_k",
        "top_p",
        "temperature",
        "seed",
        "return_log_probs",
        "stream",
        *_PENALTIES,
        # The token of padding: vLLM pads nothing.
        "pad_id",
    }
)
_NEUTRAL: Mapping[str, Any] = {
    "length_penalty": 1.0,
    "beam_width": 1,
    "num_return_sequences": 1,
    "return_context_logits": False,
    "return_generation_logits": False,
}


def ask_ensemble(inputs: Inputs, parameters: Mapping[str, Parameter], settings: ModelConfig) -> Question:
    """What to ask vLLM. Raises TritonError UNSUPPORTED, naming it, for an input that vLLM cannot follow."""
    inputs.require_known(KNOWN, neutral=_NEUTRAL)
    for name in parameters:
        raise TritonError(Code.INVALID_ARG, f"request parameter '{name}' cannot be mapped to vLLM")
    max_tokens = inputs.one("max_tokens", settings.default_max_tokens)
    if max_tokens < 1:
        raise InputError(Code.INVALID_ARG, f"max_tokens must be at least 1, got {max_tokens}")
    outputs = ("cum_log_probs", "output_log_probs") if inputs.one("return_log_probs", False) else ()
    sampled = _sampling(inputs) | {"max_tokens": max_tokens}
    asked = body(inputs.text("text_input"), settings, sampled, outputs)
    return Question(asked, bool(inputs.one("stream", False)), "", ("text_output", *outputs))


def _sampling(inputs: Inputs) -> dict[str, Any]:
    top_k, top_p = inputs.one("top_k", 0), inputs.finite("top_p", 0.0)
    is_greedy = top_k == 1 or (top_k <= 0 and top_p <= 0)
    sampled: dict[str, Any] = {
        "temperature": 0.0 if is_greedy else inputs.finite("temperature", 1.0),
        "top_k": max(top_k, 0),
        "top_p": top_p if top_p > 0 else 1.0,
        "min_tokens": max(inputs.one("min_tokens", 0), 0),
        "stop": inputs.texts("stop_words"),
        "bad_words": inputs.texts("bad_words"),
    }
    for name in _PENALTIES:
        if name in inputs.values:
            sampled[name] = inputs.finite(name, 0.0)
    if "seed" in inputs.values:
        sampled["seed"] = inputs.one("seed", 0)
    if inputs.one("end_id", -1) >= 0:
        sampled["stop_token_ids"] = [inputs.one("end_id", -1)]
    return sampled
