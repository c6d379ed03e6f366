"""Models that stay on Triton: their requests go to it and its answers come back, byte for byte, bodies as they come."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator

import aiohttp
from starlette.types import Message, Receive, Scope, Send
from yarl import URL

from migrate.gateway.config import PassthroughConfig
from migrate.gateway.errors import Code, TritonError, error_body
from migrate.gateway.observe import log
from migrate.gateway.web import relay
from migrate.gateway.web.disconnect import ClientGone, unless_gone

_CONNECT_TIMEOUT_S = 5.0
# The same of Triton's paths as Triton itself takes apart; "stats" alone is no model.
_MODEL = re.compile(r"/v2/(?:repository/)?models/(?!stats$)([^/]+)(?:/.*)?")


def model_of(path: str) -> str | None:
    """The model that a path of Triton's protocol names, or None."""
    found = _MODEL.fullmatch(path)
    return found[1] if found else None


class Passthrough:
    """An ASGI application in front of one Triton server. `open` and `close` it in the running loop."""

    def __init__(self, config: PassthroughConfig) -> None:
        self._url = config.url
        self._timeout = aiohttp.ClientTimeout(None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=config.timeout_s)
        self._session: aiohttp.ClientSession

    async def open(self) -> None:
        """Make the pool of connections."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            auto_decompress=False,
            timeout=self._timeout,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def index(self, ready: bool) -> list[dict[str, str]]:
        """Triton's repository index, of the models that are ready or of all. Raises TritonError where it is away."""
        try:
            async with self._session.post(f"{self._url}/v2/repository/index", json={"ready": ready}) as response:
                rows: list[dict[str, str]] = await response.json(content_type=None)
                return rows
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TritonError(Code.UNAVAILABLE, _away(error)) from None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        upload = _Upload(receive)
        has_started = False

        async def answer(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await unless_gone(upload.receive, self._pass_on(scope, upload, answer))
        except ClientGone:
            return
        except (aiohttp.ClientError, TimeoutError) as error:
            if not has_started:
                await _refuse(error, send)

    async def _pass_on(self, scope: Scope, upload: _Upload, send: Send) -> None:
        headers = relay.onward(scope["headers"]) | {"x-request-id": log.request_id.get()}
        has_body = "content-length" in headers or any(name == b"transfer-encoding" for name, _ in scope["headers"])
        async with self._session.request(
            scope["method"],
            URL(self._url + relay.target(scope), encoded=True),
            data=upload.blocks() if has_body else None,
            headers=headers,
            allow_redirects=False,
        ) as response:
            try:
                await relay.start(response, send)
                async for block in response.content.iter_any():
                    await relay.block(send, block)
            finally:
                if not response.content.at_eof():
                    response.close()
        await relay.end(send)


class _Upload:
    """Hands the request's body from the one that watches the client to the one that sends it on, a block at a time."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_complete = False
        self._blocks: asyncio.Queue[bytes] = asyncio.Queue(1)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not self._is_complete:
            self._is_complete = not message.get("more_body", False)
            if message.get("body"):
                await self._blocks.put(message["body"])
            if self._is_complete:
                await self._blocks.put(b"")
        return message

    async def blocks(self) -> AsyncGenerator[bytes, None]:
        while block := await self._blocks.get():
            yield block


async def _refuse(error: Exception, send: Send) -> None:
    body = error_body(_away(error)).encode("utf-8")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await relay.end(send, body)


def _away(error: Exception) -> str:
    return f"the Triton server behind the gateway is not available: {type(error).__name__}"
