"""What each kind of model asks vLLM for, and what it refuses by name rather than drop."""

from __future__ import annotations

from typing import Any

import pytest

from migrate.gateway.config import ModelConfig
from migrate.gateway.errors import Code, InputError, TritonError
from migrate.gateway.mapping.question import Inputs, Question
from migrate.gateway.mapping.styles import ask

PROMPT: dict[str, list[Any]] = {"text_input": [b"zero"], "max_tokens": [5]}


def asked(style: str, values: dict[str, list[Any]], parameters: dict[str, Any] | None = None) -> Question:
    settings = ModelConfig.model_validate({"style": style, "upstream_model": "phi-2"})
    return ask(Inputs("m", PROMPT | values), parameters or {}, settings)


@pytest.mark.parametrize(
    ("style", "values", "code", "text"),
    [
        ("ensemble", {"return_context_logits": [True]}, Code.UNSUPPORTED, "input 'return_context_logits'"),
        ("ensemble", {"return_generation_logits": [True]}, Code.UNSUPPORTED, "input 'return_generation_logits'"),
        ("ensemble", {"beam_width": [4]}, Code.UNSUPPORTED, "input 'beam_width'"),
        ("ensemble", {"length_penalty": [2.0]}, Code.UNSUPPORTED, "input 'length_penalty'"),
        ("ensemble", {"lora_task_id": [1]}, Code.UNSUPPORTED, "input 'lora_task_id'"),
        ("ensemble", {"max_tokens": [0]}, Code.INVALID_ARG, "max_tokens must be at least 1, got 0"),
        ("ensemble", {"top_p": [float("nan")]}, Code.INVALID_ARG, "the value of input 'top_p' is out of range"),
        ("ensemble", {"stop_words": [b"\xff"]}, Code.INVALID_ARG, "'utf-8' codec can't decode"),
        ("vllm", {"image": [b"x"]}, Code.UNSUPPORTED, "input 'image' is not supported by the gateway to vLLM"),
        ("vllm", {"return_logprobs": [True]}, Code.UNSUPPORTED, "input 'return_logprobs'"),
        ("vllm", {"text_input": [b"\xff"]}, Code.INVALID_ARG, "'utf-8' codec can't decode"),
        ("python", {"text_input": []}, Code.INVALID_ARG, "text_input is empty"),
        ("python", {"temperature": [float("inf")]}, Code.INVALID_ARG, "the value of input 'temperature' is out of"),
        ("python", {"top_k": [5]}, Code.UNSUPPORTED, "input 'top_k' is not supported by the gateway to vLLM"),
    ],
)
def test_what_vllm_cannot_follow(style: str, values: dict[str, list[Any]], code: Code, text: str) -> None:
    given = {name: value for name, value in values.items()}
    if style == "vllm":
        given = {"max_tokens": [], **given}
    with pytest.raises(TritonError) as raised:
        settings = ModelConfig.model_validate({"style": style, "upstream_model": "phi-2"})
        inputs = {name: value for name, value in (PROMPT | given).items() if value or name == "text_input"}
        ask(Inputs("m", inputs), {}, settings)
    assert raised.value.code is code
    assert raised.value.message.startswith(text)


def test_an_ensemble_takes_no_parameters() -> None:
    with pytest.raises(TritonError, match="request parameter 'top_k' cannot be mapped"):
        asked("ensemble", {}, {"top_k": 5})


def test_streaming_with_the_prompt_is_an_error_of_the_model() -> None:
    values = {"text_input": [b"x"], "stream": [True], "exclude_input_in_output": [False]}
    settings = ModelConfig.model_validate({"style": "vllm", "upstream_model": "phi-2"})
    with pytest.raises(InputError) as raised:
        ask(Inputs("m", values), {}, settings)
    assert raised.value.code is Code.INTERNAL


def test_an_ensemble_is_greedy_unless_it_samples() -> None:
    body = asked("ensemble", {"temperature": [0.7]}).body
    assert (body["temperature"], body["top_k"], body["top_p"], body["max_tokens"]) == (0.0, 0, 1.0, 5)
    assert asked("ensemble", {"top_k": [1], "temperature": [0.7]}).body["temperature"] == 0.0
    sampled = asked("ensemble", {"top_k": [40], "top_p": [0.9], "temperature": [0.7], "seed": [2**63]}).body
    assert (sampled["temperature"], sampled["top_k"], sampled["top_p"], sampled["seed"]) == (0.7, 40, 0.9, 2**63)


def test_an_ensembles_words_and_penalties() -> None:
    values: dict[str, list[Any]] = {
        "stop_words": [b"a", b"", "é".encode()],
        "bad_words": [b"b"],
        "end_id": [7],
        "pad_id": [0],
        "min_tokens": [2],
        "repetition_penalty": [1.5],
        "presence_penalty": [0.5],
        "beam_width": [1],
        "return_context_logits": [False],
    }
    body = asked("ensemble", values).body
    assert (body["stop"], body["bad_words"], body["stop_token_ids"]) == (["a", "é"], ["b"], [7])
    assert (body["min_tokens"], body["repetition_penalty"], body["presence_penalty"]) == (2, 1.5, 0.5)
    assert (body["frequency_penalty"], "seed" in body, "logprobs" in body) == (0.0, False, False)


def test_an_ensembles_log_probabilities() -> None:
    question = asked("ensemble", {"return_log_probs": [True], "stream": [True]})
    assert question.outputs == ("text_output", "cum_log_probs", "output_log_probs")
    assert (question.body["logprobs"], question.is_streamed) == (0, True)
    assert "return_token_ids" not in question.body
