"""Errors as Triton's clients see them: a code, which each protocol has its own word for, and a flat text.

TritonError              the server refuses the request before a model has seen it
    ModelError           what the model itself answers; on `generate_stream` it is sent as an event
        InputError       it cannot use what it was given
        NotOneResponse   it gave none or several where the protocol has place for one
ConfigError              the YAML file cannot be used
"""

from __future__ import annotations

import json
from enum import Enum

_NOT_ONE_RESPONSE = (
    "generate expects model to produce exactly 1 response, use generate stream for model that generates various number"
    " of responses"
)
DECOUPLED_OVER_HTTP = "HTTP end point doesn't support models with decoupled transaction policy"
DECOUPLED_OVER_GRPC = "ModelInfer RPC doesn't support models with decoupled transaction policy"


class Code(Enum):
    """Triton's error codes: HTTP's status and gRPC's name for each (Triton's `src/http_server.cc`, `src/grpc`)."""

    INVALID_ARG = (400, "INVALID_ARGUMENT")
    NOT_FOUND = (404, "NOT_FOUND")
    UNAVAILABLE = (503, "UNAVAILABLE")
    UNSUPPORTED = (501, "UNIMPLEMENTED")
    INTERNAL = (500, "INTERNAL")
    ALREADY_EXISTS = (400, "ALREADY_EXISTS")
    CANCELLED = (400, "CANCELLED")
    UNKNOWN = (400, "UNKNOWN")

    @property
    def http(self) -> int:
        """The HTTP status."""
        return self.value[0]

    @property
    def grpc(self) -> str:
        """The name of the grpc.StatusCode."""
        return self.value[1]


class TritonError(Exception):
    """An answer `{"error": message}`; `retry_after_s` is in seconds, for a server that is full or absent."""

    def __init__(self, code: Code, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.code.http

    def body(self) -> str:
        """The JSON that HTTP clients get."""
        return error_body(self.message)


class ModelError(TritonError):
    """An error of the model or of the server behind the gateway."""


class InputError(ModelError):
    """The model refuses an input. Whatever its code, `generate` and `generate_stream` give it status 400 (measured)."""


class NotOneResponse(ModelError):
    """None or several responses; on `generate` under status 200, because the first has begun the answer (measured)."""

    def __init__(self) -> None:
        super().__init__(Code.INTERNAL, _NOT_ONE_RESPONSE)


class ConfigError(Exception):
    """The gateway's YAML file cannot be used; the message names the file and the keys."""


def error_body(message: str) -> str:
    """Triton's flat error; its clients fail on anything nested (tritonclient `http/_utils.py::_get_error`)."""
    return json.dumps({"error": message}, ensure_ascii=False, separators=(",", ":"))


def tagged(request_id: str, text: str) -> str:
    """A complaint of Triton's core, which names the request that it is about."""
    return f"[request id: {request_id or '<id_unknown>'}] {text}"


def unknown_model(name: str) -> TritonError:
    """Status and text as measured on Triton 2.51: 404, with or without a version in the path."""
    return TritonError(Code.NOT_FOUND, f"Request for unknown model: '{name}' is not found")


def unknown_version(name: str, version: str) -> TritonError:
    """The model is known, that version of it is not."""
    return TritonError(Code.NOT_FOUND, f"Request for unknown model: '{name}' version {version} is not found")
