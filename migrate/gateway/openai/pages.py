"""/docs and /openapi.json: FastAPI shows what both sides answer.

Requests themselves go past FastAPI: what it takes of each (about 90 µs of its own) is a fifth of the gateway's time.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

_Row = tuple[str, str, str, dict[str, Any] | None]
TITLE = "Triton's protocol and OpenAI's, in front of vLLM"
_ABOUT = (
    "`/v1` is vLLM's OpenAI API, passed on byte for byte. `/v2` is Triton's HTTP protocol; the same over gRPC has its"
    " own port. Answers carry `x-request-id`; send one to find a request in every log."
)
_TEXT = {"type": "string"}
_MODEL = {"type": "object", "required": ["model"], "properties": {"model": _TEXT}, "additionalProperties": True}
_OBJECT = {"type": "object", "additionalProperties": True}
_OPENAI_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": "string", "nullable": True},
                "code": {"type": "string", "nullable": True},
            },
        }
    },
}
_TRITON_ERROR = {"type": "object", "properties": {"error": _TEXT}}
_OPENAI_REFUSALS = {
    "400": "not a JSON object, or vLLM refuses a field",
    "401": "the API key is missing or wrong",
    "404": "no such model",
    "408": "the body came too slowly",
    "413": "the body is too long",
    "415": "not application/json, or compressed",
    "429": "more requests than the key may send; see Retry-After",
    "502": "vLLM answered nonsense",
    "503": "vLLM does not answer, or the queue is full; see Retry-After",
}
_TRITON_REFUSALS = {
    "400": "the request does not fit the model",
    "404": "no such model or version",
    "503": "vLLM does not answer, or the queue is full; see Retry-After",
}
_OPENAI: tuple[_Row, ...] = (
    ("post", "/v1/completions", "Complete a prompt", {"model": "phi2", "prompt": "def add(a, b):", "max_tokens": 16}),
    (
        "post",
        "/v1/chat/completions",
        "Answer a conversation",
        {"model": "phi2", "messages": [{"role": "user", "content": "Hello"}], "stream": True},
    ),
    ("post", "/v1/embeddings", "Embed texts, with a model that can", {"model": "phi2", "input": "Hello"}),
    ("get", "/v1/models", "List the models", None),
)
_TRITON: tuple[_Row, ...] = (
    ("get", "/v2/health/live", "Whether the process runs", None),
    ("get", "/v2/health/ready", "Whether it takes requests: 400 while vLLM does not answer or it is stopping", None),
    ("get", "/v2", "Name, version and extensions of the server", None),
    ("get", "/v2/models/{model}", "Inputs and outputs of a model", None),
    ("get", "/v2/models/{model}/ready", "Whether a model takes requests", None),
    ("get", "/v2/models/{model}/config", "A model's configuration", None),
    ("get", "/v2/models/{model}/stats", "What a model has done", None),
    (
        "post",
        "/v2/models/{model}/infer",
        "Infer from tensors, as JSON or binary",
        {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["def add(a, b):"]}]},
    ),
    ("post", "/v2/models/{model}/generate", "Generate a text", {"text_input": "def add(a, b):", "max_tokens": 16}),
    (
        "post",
        "/v2/models/{model}/generate_stream",
        "Generate a text as server-sent events",
        {"text_input": "def add(a, b):", "stream": True},
    ),
    ("post", "/v2/repository/index", "List the models and their state", {}),
    ("post", "/v2/repository/models/{model}/load", "Make a model available", {}),
    ("post", "/v2/repository/models/{model}/unload", "Take a model away", {}),
    ("get", "/metrics", "Prometheus metrics, under Triton's names and its own", None),
)


class Described(FastAPI):
    """Answers /docs and /openapi.json."""

    def openapi(self) -> dict[str, Any]:
        """The document of `schema`, and not one made of routes."""
        return schema()


def schema() -> dict[str, Any]:
    """The OpenAPI document."""
    paths: dict[str, Any] = {}
    for method, path, summary, example in _OPENAI:
        operation = _operation(summary, example, _MODEL, _responses(_OPENAI_REFUSALS, _OPENAI_ERROR))
        paths.setdefault(path, {})[method] = operation | {"tags": ["OpenAI"], "security": [{"key": []}, {}]}
    for method, path, summary, example in _TRITON:
        operation = _operation(summary, example, _OBJECT, _responses(_TRITON_REFUSALS, _TRITON_ERROR))
        if "{model}" in path:
            operation["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": _TEXT}]
        paths.setdefault(path, {})[method] = operation | {"tags": ["Triton"]}
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": "1", "description": _ABOUT},
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(
    summary: str, example: dict[str, Any] | None, body: dict[str, Any], responses: dict[str, Any]
) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if example is not None:
        operation["requestBody"] = {"content": {"application/json": {"schema": body, "example": example}}}
    return operation


def _responses(refusals: dict[str, str], error: dict[str, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": "the answer"}}
    for status, text in refusals.items():
        responses[status] = {"description": text, "content": {"application/json": {"schema": error}}}
    return responses
