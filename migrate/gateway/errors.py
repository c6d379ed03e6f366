"""Errors as Triton's clients see them: a status and a flat text.

TritonError              the server refuses the request before a model has seen it
    ModelError           what the model itself answers; on `generate_stream` it is sent as an event
"""

from __future__ import annotations

import json

NOT_ONE_RESPONSE = (
    "generate expects model to produce exactly 1 response, use generate stream for model that generates various number"
    " of responses"
)


class TritonError(Exception):
    """An answer `{"error": message}` with an HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    def body(self) -> str:
        """The JSON that clients get."""
        return error_body(self.message)


class ModelError(TritonError):
    """An error of the model or of the server behind the gateway."""


class ConfigError(Exception):
    """The gateway's YAML file cannot be used; the message names the file and the keys."""


def error_body(message: str) -> str:
    """Triton's flat error; its clients fail on anything nested (tritonclient `http/_utils.py::_get_error`)."""
    return json.dumps({"error": message}, ensure_ascii=False, separators=(",", ":"))


def unknown_model(name: str) -> TritonError:
    """Status and text as measured on Triton 2.51: 404, with or without a version in the path."""
    return TritonError(404, f"Request for unknown model: '{name}' is not found")


def unknown_version(name: str, version: str) -> TritonError:
    """The model is known, that version of it is not."""
    return TritonError(404, f"Request for unknown model: '{name}' version {version} is not found")
