"""Follows one request from its head to the end of its answer: request id, log line, metrics, a span if tracing is on.

HTTP requests are tracked by the `Tracking` middleware; a handler names the model: `tracking.name("phi2", "1")`.
Who speaks gRPC also begins and ends:

    tracked = tracking.begin("grpc", "ModelInfer", metadata.get("x-request-id"))
    tracked.name("phi2", "1")
    tracked.end("OK")
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from migrate.gateway.observe import log, metrics, tracing

_current: ContextVar[Tracked | None] = ContextVar("tracked", default=None)
# Nobody reads it; nginx logs the same number for a client that closed its request.
_CLIENT_CLOSED_REQUEST = 499


@dataclass(slots=True)
class Tracked:
    """A request in progress. `detail` goes into its log line as it stands."""

    protocol: str
    operation: str
    request_id: str
    model: str = ""
    version: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    _begun: float = field(default_factory=time.monotonic)
    _span: tracing.Span | None = None
    _is_over: bool = False

    def name(self, model: str, version: str) -> None:
        """Say which model the request is for."""
        self.model, self.version = model, version

    def end(self, status: int | str) -> None:
        """Its answer is complete, or will not be. A second end is ignored."""
        if self._is_over:
            return
        self._is_over = True
        seconds = time.monotonic() - self._begun
        metrics.observe(self.model, self.protocol, status, seconds)
        fields = {"protocol": self.protocol, "operation": self.operation, "model": self.model, "version": self.version}
        log.answered(fields | {"status": status, "seconds": round(seconds, 6)} | self.detail)
        if self._span is not None:
            self._span.end(status, self.model)


def begin(protocol: str, operation: str, request_id: str | None, parent: str | None = None) -> Tracked:
    """Start to follow the request of this task. `request_id` and `parent` (traceparent) are what its client sent."""
    accepted = log.accept(request_id)
    tracked = Tracked(protocol, operation, accepted, _span=tracing.start(operation, protocol, accepted, parent))
    _current.set(tracked)
    return tracked


def name(model: str, version: str = "") -> None:
    """Say which model the request of this task is for; nothing happens outside of requests."""
    tracked = _current.get()
    if tracked is not None:
        tracked.name(model, version)


def note(**detail: Any) -> None:
    """Add to the log line of this task's request; nothing happens outside of requests."""
    tracked = _current.get()
    if tracked is not None:
        tracked.detail.update(detail)


def prompt(text: object) -> None:
    """Add the prompt to the log line of this task's request, where the configuration wants prompts."""
    if log.keeps_prompts():
        note(prompt=text)


class Tracking:
    """ASGI middleware: tracks each HTTP request and answers with its id."""

    def __init__(self, app: ASGIApp, protocol: str = "http") -> None:
        self._app = app
        self._protocol = protocol

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        tracked = begin(
            "openai" if scope["path"].startswith("/v1/") else self._protocol,
            f"{scope['method']} {scope['path']}",
            _text(headers.get(b"x-request-id")),
            _text(headers.get(b"traceparent")),
        )
        status = _CLIENT_CLOSED_REQUEST
        id_header = (b"x-request-id", tracked.request_id.encode("latin-1"))

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                kept = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"x-request-id"]
                message = {**message, "headers": [*kept, id_header]}
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            tracked.end(status)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
