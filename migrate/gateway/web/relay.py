"""Passing HTTP on byte for byte: the headers that go along, and an answer from its first byte to its last."""

from __future__ import annotations

from collections.abc import Iterable

import aiohttp
from starlette.types import Scope, Send

# Those of one connection (RFC 9110, 7.6.1), and those that each side makes anew.
_OF_ONE_CONNECTION = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding"
    b" upgrade".split()
)
_MADE_ANEW = frozenset(b"host expect x-request-id".split())
_NOT_BACK = frozenset(b"date server x-request-id".split())


def target(scope: Scope) -> str:
    """Path and query as the client sent them."""
    path: bytes = scope["raw_path"]
    query: bytes = scope["query_string"]
    return (path + b"?" + query if query else path).decode("ascii")


def onward(headers: Iterable[tuple[bytes, bytes]], *, without: frozenset[bytes] = frozenset()) -> dict[str, str]:
    """The client's headers for the server behind; several of one name become one, as RFC 9110 allows."""
    kept: dict[str, str] = {}
    dropped = _OF_ONE_CONNECTION | _MADE_ANEW | without
    for name, value in headers:
        if name not in dropped:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            kept[key] = f"{kept[key]}, {text}" if key in kept else text
    return kept


async def start(response: aiohttp.ClientResponse, send: Send, status: int | None = None) -> None:
    """Status and headers of an answer."""
    dropped = _OF_ONE_CONNECTION | _NOT_BACK
    headers = [(name.lower(), value) for name, value in response.raw_headers if name.lower() not in dropped]
    await send({"type": "http.response.start", "status": status or response.status, "headers": headers})


async def block(send: Send, body: bytes) -> None:
    """A piece of an answer; waits while the client does not take what it has been sent."""
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def end(send: Send, body: bytes = b"") -> None:
    """The end of an answer."""
    await send({"type": "http.response.body", "body": body, "more_body": False})
