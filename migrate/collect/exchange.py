"""One HTTP exchange with a clock: a POST that answers with one JSON object, or with a stream of them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

_READ_BUFFER_BYTES = 1 << 20
_ERROR_TEXT_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Exchange:
    """What came back and when, in seconds of the monotonic clock; `error` is set exactly when it did not succeed.

    `first_s` is the arrival of the first payload that carries text (for one JSON object: of the whole), `last_s` the
    arrival of the last one.
    """

    sent_s: float
    first_s: float | None
    last_s: float
    payloads: tuple[Mapping[str, Any], ...]
    error: str | None


def client_session(timeout_s: float) -> aiohttp.ClientSession:
    """A client without a connection limit and with a read buffer that does not throttle long streams."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        read_bufsize=_READ_BUFFER_BYTES,
        trust_env=False,
    )


async def post(
    session: aiohttp.ClientSession, url: str, body: Mapping[str, Any], *, stream: bool = False, key: str = ""
) -> Exchange:
    """POST `body` and read the answer to its end; `key` is sent as a bearer token.

    Never raises for what a server or network does: that is `error`.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else None
    sent_s = time.monotonic()
    first_s: float | None = None
    payloads: list[Mapping[str, Any]] = []
    error = None
    try:
        async with session.post(url, json=body, headers=headers) as response:
            await _refuse_error_status(response)
            async for payload in _events(response) if stream else _single(response):
                if first_s is None and _carries_text(payload):
                    first_s = time.monotonic()
                payloads.append(payload)
        error = _error_inside(payloads)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as problem:
        error = f"{type(problem).__name__}: {problem}".rstrip(": ")
    return Exchange(sent_s, first_s, time.monotonic(), tuple(payloads), error)


async def _refuse_error_status(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        text = (await response.text(errors="replace"))[:_ERROR_TEXT_CHARACTERS]
        raise ValueError(f"HTTP {response.status} {text}".strip())


async def _single(response: aiohttp.ClientResponse) -> AsyncIterator[Mapping[str, Any]]:
    yield _object(await response.read())


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[Mapping[str, Any]]:
    async for line in response.content:
        if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
            yield _object(data)


def _object(data: bytes) -> Mapping[str, Any]:
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError(f"the answer is no JSON object: {data[:80]!r}")
    return value


def _carries_text(payload: Mapping[str, Any]) -> bool:
    return bool(payload.get("text_output") or payload.get("choices"))


def _error_inside(payloads: list[Mapping[str, Any]]) -> str | None:
    if not payloads:
        return "the answer is empty"
    errors = [str(payload["error"]) for payload in payloads if payload.get("error")]
    return errors[0] if errors else None
