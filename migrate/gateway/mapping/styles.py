"""The three kinds of Triton models: what each makes of its inputs, as a question to vLLM's /v1/completions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from migrate.gateway.config import ModelConfig, StyleName
from migrate.gateway.core.inference import Parameter
from migrate.gateway.errors import Code, InputError, TritonError
from migrate.gateway.mapping import sampling
from migrate.gateway.mapping.ensemble import KNOWN, ask_ensemble
from migrate.gateway.mapping.question import Inputs, Question, body

_Ask = Callable[[Inputs, Mapping[str, Parameter], ModelConfig], Question]
# vllm_backend's names of the outputs that an input `return_…` asks for.
_VLLM_OUTPUTS = ("finish_reason", "cumulative_logprob", "num_input_tokens", "num_output_tokens")
_VLLM_SWITCHES = (f"return_{name}" for name in _VLLM_OUTPUTS)
# What each style follows; another input of a model is refused by name when a request carries it.
INPUTS: Mapping[StyleName, frozenset[str]] = {
    StyleName.PYTHON: frozenset({"text_input", "max_tokens", "temperature", "return_log_probs"}),
    StyleName.VLLM: frozenset(
        {"text_input", "stream", "sampling_parameters", "exclude_input_in_output", *_VLLM_SWITCHES}
    ),
    StyleName.ENSEMBLE: KNOWN,
}
OUTPUTS: Mapping[StyleName, frozenset[str]] = {
    StyleName.PYTHON: frozenset({"text_output", "output_ids", "log_probs"}),
    StyleName.VLLM: frozenset({"text_output", *_VLLM_OUTPUTS}),
    StyleName.ENSEMBLE: frozenset({"text_output", "cum_log_probs", "output_log_probs"}),
}


def ask(inputs: Inputs, parameters: Mapping[str, Parameter], settings: ModelConfig) -> Question:
    """What to ask vLLM for one prompt. Raises TritonError, or InputError where the model itself would refuse."""
    return _STYLES[settings.style](inputs, parameters, settings)


def _ask_python(inputs: Inputs, parameters: Mapping[str, Parameter], settings: ModelConfig) -> Question:
    inputs.require_known(INPUTS[StyleName.PYTHON])
    for name in parameters:
        raise TritonError(Code.INVALID_ARG, f"request parameter '{name}' cannot be mapped to vLLM")
    max_tokens = inputs.one("max_tokens", settings.default_max_tokens)
    if max_tokens < 1:
        raise InputError(Code.INVALID_ARG, f"max_tokens must be at least 1, got {max_tokens}")
    # The source model is greedy at any temperature that is not positive; vLLM refuses negative ones.
    temperature = max(0.0, inputs.finite("temperature", 0.0))
    outputs = ("output_ids", "log_probs") if inputs.one("return_log_probs", False) else ()
    prompt = inputs.text("text_input")
    sampled = {"temperature": temperature, "max_tokens": max_tokens}
    return Question(body(prompt, settings, sampled, outputs), False, "", ("text_output", *outputs))


def _ask_vllm(inputs: Inputs, parameters: Mapping[str, Parameter], settings: ModelConfig) -> Question:
    inputs.require_known(INPUTS[StyleName.VLLM], neutral={"return_logprobs": False})
    is_streamed = bool(inputs.one("stream", False))
    excludes_prompt = bool(inputs.one("exclude_input_in_output", is_streamed))
    if is_streamed and not excludes_prompt:
        text = "When streaming, `exclude_input_in_output` = False is not allowed."
        raise InputError(Code.INTERNAL, text)
    sampled = {"max_tokens": settings.default_max_tokens} | _vllm_sampling(inputs, parameters)
    outputs = tuple(name for name in _VLLM_OUTPUTS if inputs.one(f"return_{name}", False))
    prompt = inputs.text("text_input")
    asked = body(prompt, settings, sampled, outputs)
    return Question(asked, is_streamed, "" if excludes_prompt else prompt, ("text_output", *outputs))


def _vllm_sampling(inputs: Inputs, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """From the input or from the request parameters; vllm_backend drops the latter silently when both are given."""
    if "sampling_parameters" not in inputs.values:
        return sampling.mapped(parameters)
    for name in parameters:
        text = f"request parameter '{name}' and input 'sampling_parameters' exclude each other"
        raise TritonError(Code.INVALID_ARG, text)
    return sampling.mapped(sampling.from_json(inputs.text("sampling_parameters")))


_STYLES: Mapping[StyleName, _Ask] = {
    StyleName.PYTHON: _ask_python,
    StyleName.VLLM: _ask_vllm,
    StyleName.ENSEMBLE: ask_ensemble,
}
