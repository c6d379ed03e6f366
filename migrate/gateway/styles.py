"""The two kinds of Triton models: what each makes of a request, as a question to vLLM's /v1/completions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from migrate.gateway import sampling
from migrate.gateway.config import ModelConfig, StyleName
from migrate.gateway.errors import ModelError, TritonError
from migrate.gateway.fields import Fields, Kind

PYTHON_INPUTS: Mapping[str, Kind] = {
    "text_input": Kind.STRING,
    "max_tokens": Kind.INT,
    "temperature": Kind.FLOAT,
    "return_log_probs": Kind.BOOL,
}
# vllm_backend's inputs (its `src/model.py`, auto_complete_config), but for images.
VLLM_INPUTS: Mapping[str, Kind] = {
    "text_input": Kind.STRING,
    "stream": Kind.BOOL,
    "sampling_parameters": Kind.STRING,
    "exclude_input_in_output": Kind.BOOL,
    "return_finish_reason": Kind.BOOL,
    "return_cumulative_logprob": Kind.BOOL,
    "return_logprobs": Kind.BOOL,
    "return_num_input_tokens": Kind.BOOL,
    "return_num_output_tokens": Kind.BOOL,
}


@dataclass(frozen=True, slots=True)
class Question:
    """`body` goes to /v1/completions; `prefix` goes before the text; `outputs` are those besides text_output."""

    body: Mapping[str, Any]
    is_streamed: bool
    prefix: str
    outputs: frozenset[str]


@dataclass(frozen=True, slots=True)
class Style:
    """The inputs of a kind of model, and how a request becomes a question."""

    inputs: Mapping[str, Kind]
    ask: Callable[[Fields, ModelConfig], Question]


def _ask_python(fields: Fields, model: ModelConfig) -> Question:
    for name in fields.parameters:
        raise TritonError(400, f"request parameter '{name}' cannot be mapped to vLLM")
    max_tokens = fields.inputs.get("max_tokens", model.default_max_tokens)
    if max_tokens < 1:
        raise ModelError(400, f"max_tokens must be at least 1, got {max_tokens}")
    # The source model is greedy at any temperature that is not positive; vLLM refuses negative ones.
    temperature = max(0.0, fields.inputs.get("temperature", 0.0))
    wants_log_probs = fields.inputs.get("return_log_probs", False)
    outputs = frozenset({"output_ids", "log_probs"}) if wants_log_probs else frozenset[str]()
    settings = {"temperature": temperature, "max_tokens": max_tokens}
    return Question(_body(fields, model, settings, outputs), False, "", outputs)


def _ask_vllm(fields: Fields, model: ModelConfig) -> Question:
    if fields.inputs.get("return_logprobs"):
        raise TritonError(501, "input 'return_logprobs' is not supported by the gateway to vLLM")
    is_streamed = bool(fields.inputs.get("stream", False))
    excludes_prompt = bool(fields.inputs.get("exclude_input_in_output", is_streamed))
    if is_streamed and not excludes_prompt:
        raise ModelError(400, "When streaming, `exclude_input_in_output` = False is not allowed.")
    settings = {"max_tokens": model.default_max_tokens} | _vllm_settings(fields)
    wanted = [name for name in VLLM_INPUTS if name.startswith("return_") and fields.inputs.get(name)]
    outputs = frozenset(name.removeprefix("return_") for name in wanted)
    prefix = "" if excludes_prompt else fields.text("text_input")
    return Question(_body(fields, model, settings, outputs), is_streamed, prefix, outputs)


def _vllm_settings(fields: Fields) -> dict[str, Any]:
    """From the input or from the request parameters; vllm_backend drops the latter silently when both are given."""
    if "sampling_parameters" not in fields.inputs:
        return sampling.mapped(fields.parameters)
    for name in fields.parameters:
        raise TritonError(400, f"request parameter '{name}' and input 'sampling_parameters' exclude each other")
    return sampling.mapped(sampling.from_json(fields.text("sampling_parameters")))


def _body(fields: Fields, model: ModelConfig, settings: Mapping[str, Any], outputs: frozenset[str]) -> dict[str, Any]:
    prompt = fields.text("text_input")
    if not prompt:
        raise ModelError(400, "text_input is empty")
    body = {"model": model.upstream_model, "prompt": prompt, **sampling.DEFAULTS, **settings}
    if outputs & {"log_probs", "cumulative_logprob"}:
        body["logprobs"] = 0
    if outputs - {"finish_reason"}:
        body["return_token_ids"] = True
    return body


STYLES: Mapping[StyleName, Style] = {
    StyleName.PYTHON: Style(PYTHON_INPUTS, _ask_python),
    StyleName.VLLM: Style(VLLM_INPUTS, _ask_vllm),
}
