"""Whole HTTP answers, as ASGI applications."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.types import Receive, Scope, Send

from migrate.gateway.errors import TritonError


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, body and headers; names of headers in lower case, without length and type."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain"
    headers: Mapping[str, str] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        headers.append((b"content-type", self.content_type.encode("latin-1")))
        headers.append((b"content-length", str(len(self.body)).encode("ascii")))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def json_answer(body: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """JSON, with what cannot be written in UTF-8 replaced."""
    return Answer(status, body.encode("utf-8", "replace"), "application/json", headers or {})


def error_answer(error: TritonError, status: int | None = None) -> Answer:
    """Triton's `{"error": …}` with the error's own status or another, and Retry-After where it is worth to wait."""
    headers = {"retry-after": str(math.ceil(error.retry_after_s))} if error.retry_after_s is not None else {}
    return json_answer(error.body(), error.status if status is None else status, headers)
