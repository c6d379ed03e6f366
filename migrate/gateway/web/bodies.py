"""ASGI middleware: a request's body is neither too long nor too slow.

A body whose Content-Length says that it is too long is refused unread; one without a length as soon as it is too long.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from migrate.gateway.config import LimitsConfig
from migrate.gateway.observe import metrics
from migrate.gateway.web.refusals import refuse

# A client reads its refusal only if its own writing does not fail first: what it still sends is thrown away so long.
_LINGER_S = 5.0
_LINGER_QUIET_S = 1.0
_LINGER_BYTES = 4 * 1024 * 1024


class Bodies:
    """Wraps an application; what it refuses, the application sees as a client that left."""

    def __init__(self, app: ASGIApp, limits: LimitsConfig) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _length(scope) > self._limits.max_body_bytes:
            await self._refuse(scope, receive, send, 413)
            return
        body = _Body(receive, send, self._limits)
        try:
            await self._app(scope, body.receive, body.send)
        finally:
            if body.status and not body.is_answered:
                await self._refuse(scope, receive, send, body.status)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, status: int) -> None:
        metrics.refused("size" if status == 413 else "slow")
        texts = {
            413: f"the request is longer than {self._limits.max_body_bytes} bytes",
            408: f"nothing of the request's body has come for {self._limits.body_timeout_s:g} s",
        }
        await refuse(scope, send, status, texts[status], is_last=False)
        await _linger(receive)
        await send({"type": "http.response.body", "body": b""})


@dataclass(slots=True)
class _Body:
    """`status` is that of the refusal, once there is one; the application's own answer then goes nowhere."""

    _receive: Receive
    _send: Send
    _limits: LimitsConfig
    _size: int = 0
    _is_complete: bool = False
    status: int = 0
    is_answered: bool = False

    async def receive(self) -> Message:
        if self.status:
            return {"type": "http.disconnect"}
        if self._is_complete:
            return await self._receive()
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                message = await self._receive()
        except TimeoutError:
            self.status = 408
            return {"type": "http.disconnect"}
        self._size += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        if self._size > self._limits.max_body_bytes:
            self.status = 413
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        if not self.status or self.is_answered:
            self.is_answered = True
            await self._send(message)


def _length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


async def _linger(receive: Receive) -> None:
    try:
        async with asyncio.timeout(_LINGER_S):
            read, more = 0, True
            while more and read < _LINGER_BYTES:
                message = await asyncio.wait_for(receive(), _LINGER_QUIET_S)
                read += len(message.get("body", b""))
                more = message.get("more_body", False)
    except TimeoutError:
        return
