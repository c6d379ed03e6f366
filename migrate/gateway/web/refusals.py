"""Answers of the gateway itself, in the form that the path's clients read: OpenAI's under /v1, Triton's elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

from starlette.types import Scope, Send

from migrate.gateway.errors import TritonError, error_body

_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class OpenAiError(Exception):
    """An answer in OpenAI's form: status, message, and `code`, which its clients read in programs."""

    def __init__(self, status: int, message: str, code: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.retry_after_s = retry_after_s

    @classmethod
    def of(cls, error: TritonError) -> OpenAiError:
        """What the side of Triton calls the same failure; a sick server is 502, so that 500 stays the gateway's own."""
        status = 502 if error.status == 500 else error.status
        return cls(status, error.message, "upstream_error", retry_after_s=error.retry_after_s)

    def body(self) -> bytes:
        """OpenAI's JSON: `{"error": {"message", "type", "param", "code"}}`."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        return json.dumps({"error": error}, ensure_ascii=False).encode("utf-8")


async def refuse(scope: Scope, send: Send, status: int, message: str, *, is_last: bool = True) -> None:
    """Answer and close the connection, because what follows on it may be the rest of a request that nobody reads.

    With `is_last` false the answer is complete for the client, but the connection stays until an empty body is sent.
    """
    if scope["path"].startswith("/v1/"):
        code = HTTPStatus(status).phrase.lower().replace(" ", "_")
        body = OpenAiError(status, message, code).body()
    else:
        body = error_body(message).encode("utf-8")
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": not is_last})
