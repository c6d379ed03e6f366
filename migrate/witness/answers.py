"""Reads one answer to its end, and says why it is none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass(slots=True)
class Answer:
    """What was seen of an answer so far; `error` is "" only once it is whole and good."""

    status: int | None = None
    error: str = "no answer"
    bytes: int = 0
    chunks: int = 0


async def read_single(response: aiohttp.ClientResponse, into: Answer) -> None:
    """`generate`: 200 and one JSON object with text_output. Triton can answer an error under 200."""
    into.status = response.status
    body = await response.read()
    into.bytes, into.chunks = len(body), 1
    into.error = _complaint(body) if response.status == 200 else f"status {response.status}: {_shown(body)}"


async def read_events(response: aiohttp.ClientResponse, into: Answer) -> None:
    """`generate_stream`: 200, at least one event, no error event, and an end that the server wrote.

    aiohttp raises ClientPayloadError where a chunked answer stops before its last chunk.
    """
    into.status = response.status
    if response.status != 200:
        into.error = f"status {response.status}: {_shown(await response.read())}"
        return
    has_end_mark = "Transfer-Encoding" in response.headers or "Content-Length" in response.headers
    rest, wrong = b"", "" if has_end_mark else "the stream has no end mark"
    async for block in response.content.iter_any():
        into.bytes += len(block)
        *events, rest = (rest + block).split(b"\n\n")
        into.chunks += len(events)
        wrong = wrong or next(filter(None, map(_event_complaint, events)), "")
    if rest.strip():
        wrong = wrong or f"the last event is torn: {_shown(rest)}"
    into.error = wrong or ("" if into.chunks else "the stream ended without an event")


def _event_complaint(event: bytes) -> str:
    if not event.startswith(b"data:"):
        return f"not an event: {_shown(event)}"
    return _complaint(event.removeprefix(b"data:"))


def _complaint(body: bytes) -> str:
    try:
        answer: Any = json.loads(body)
    except ValueError:
        return f"not JSON: {_shown(body)}"
    if not isinstance(answer, dict) or "error" in answer or not isinstance(answer.get("text_output"), str):
        return f"no text_output: {_shown(body)}"
    return ""


def _shown(body: bytes) -> str:
    """Errors are short; the text of an answer is not kept."""
    return body[:200].decode("utf-8", "replace")
