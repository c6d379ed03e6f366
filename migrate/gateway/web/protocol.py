"""uvicorn's HTTP protocol with bounds on the head of a request, which neither it nor httptools has.

A head that is too long or has too many headers is answered with 431, one that is not complete in time with 408. Bytes
that are neither head nor body, as endless trailers or chunk extensions, end the connection.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from migrate.gateway.config import LimitsConfig
from migrate.gateway.web.refusals import refuse

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def bounded(limits: LimitsConfig) -> type[HttpToolsProtocol]:
    """The protocol class for `uvicorn.Config(http=…)`."""

    class Bounded(_BoundedProtocol):
        _limits = limits

    return Bounded


class _BoundedProtocol(HttpToolsProtocol):
    _limits: LimitsConfig

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._is_in_head = True
        self._fruitless = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._fruitless += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._fruitless > self._limits.max_head_bytes:
            self._end(_TOO_LARGE)
        elif self._is_in_head and self._fruitless and self._head_timer is None:
            self._start_head_timer()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_head_timer()
        self._is_in_head = False
        self._fruitless = 0
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if len(self.headers) <= self._limits.max_headers and size <= self._limits.max_head_bytes:
            super().on_headers_complete()
            return
        app, self.app = self.app, _refuse_head
        super().on_headers_complete()
        self.app = app

    def on_body(self, body: bytes) -> None:
        self._fruitless = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._fruitless = 0
        super().on_message_complete()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.head_timeout_s, self._end, _TOO_SLOW)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end(self, answer: bytes) -> None:
        """Answer unless another answer is under way on this connection, or nothing was asked on it."""
        if self._fruitless and (self.cycle is None or self.cycle.response_complete):
            self.transport.write(answer)
            self.transport.close()
        else:
            self.transport.abort()


async def _refuse_head(scope: Scope, _: Receive, send: Send) -> Any:
    await refuse(scope, send, 431, "the request has too many headers, or they are too long")
