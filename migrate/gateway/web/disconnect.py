"""Work that ends when the client goes away, so that vLLM does not generate for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from starlette.types import Message, Receive, Scope, Send

from migrate.gateway.errors import TritonError

_T = TypeVar("_T")


class ClientGone(Exception):
    """The client closed its connection before its answer was complete."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of `work`, done in this task. Raises ClientGone when the client leaves first; `work` has then ended.

    For requests whose body has been read: whatever else `receive` gives is thrown away.
    """
    worker = asyncio.current_task()
    assert worker is not None  # noqa: S101 -- a coroutine always runs in a task here
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        worker.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        # Cancelled by the watcher alone, and not by a server that stops as well.
        if is_gone and worker.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        watcher.cancel()


class EventStream:
    """An ASGI response of server-sent events, one per string; a TritonError among the rest becomes the last event.

    The rest is closed whatever happens to the client.
    """

    def __init__(self, first: str, rest: AsyncGenerator[str, None] | None = None, *, status: int = 200) -> None:
        self._first = first
        self._rest = rest
        self._status = status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._send(send))
        except ClientGone:
            return
        finally:
            if self._rest is not None:
                await self._rest.aclose()

    async def _send(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        await send(_event(self._first))
        try:
            if self._rest is not None:
                async for event in self._rest:
                    await send(_event(event))
        except TritonError as error:
            await send(_event(error.body()))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _event(data: str) -> Message:
    return {"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True}
