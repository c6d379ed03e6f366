"""Requests to whichever vLLM server is best: a bounded queue, the least busy server, deadlines, no work for nobody.

Leaving an exchange early closes its connection, which is how vLLM learns to stop.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import aiohttp
from yarl import URL

from migrate.gateway.config import GatewayConfig
from migrate.gateway.errors import Code, ModelError
from migrate.gateway.observe import log, metrics, tracing
from migrate.gateway.vllm.places import Places
from migrate.gateway.vllm.servers import Server, Servers

_log = logging.getLogger("migrate.gateway.vllm.upstreams")
# vLLM's server closes connections that were quiet for 5 s; one must never be taken up again at that very moment.
_KEEP_ALIVE_S = 2.0
_CONNECT_TIMEOUT_S = 5.0
_CONTROL_TIMEOUT_S = 10.0
_HEALTH_TIMEOUT_S = 2.0
# aiohttp writes longer bytes in one piece, which holds up every other request.
_AT_ONCE_BYTES = 1024 * 1024
# What aiohttp would say of itself; a request that is passed on says what its client said.
_OWN_HEADERS = ("Accept", "Accept-Encoding", "User-Agent")


@dataclass(frozen=True, slots=True)
class Ask:
    """One HTTP request; `target` is path and query as they go over the wire, `model` vLLM's name ("": any server).

    A control request is answered at once or not at all, and takes no place in the queue.
    """

    method: str
    target: str
    model: str = ""
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_control: bool = False


class Connections:
    """Every server of the configuration. `open` and `close` it in the running loop."""

    def __init__(self, config: GatewayConfig) -> None:
        self.servers = Servers(config.servers, config.health, self.is_healthy)
        self._queue = config.queue
        self._limit_s = config.limits.request_timeout_s
        self._places: dict[str, Places] = {}
        self._numbers = itertools.count(1)
        # Makes the numbers differ between processes.
        self._prefix = os.urandom(2).hex()
        self._session: aiohttp.ClientSession
        metrics.upstream_waiting.set_function(lambda: sum(places.waiting for places in self._places.values()))

    async def open(self) -> None:
        """Make the pool of connections; they are opened as they are needed."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_OWN_HEADERS,
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self.servers.close()
        await self._session.close()

    @asynccontextmanager
    async def exchange(self, ask: Ask) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request, whatever its status. Raises ModelError when there is none, or when it breaks off."""
        if ask.is_control:
            async with self._exchange(ask) as response:
                yield response
        else:
            async with self._places_of(ask.model):
                metrics.executing()
                async with self._exchange(ask) as response:
                    yield response

    async def is_healthy(self, server: Server) -> bool:
        """Whether a server's /health answers 200; vLLM asks for no key there."""
        timeout = aiohttp.ClientTimeout(total=_HEALTH_TIMEOUT_S)
        try:
            async with self._session.get(f"{server.url}/health", timeout=timeout) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _places_of(self, model: str) -> Places:
        if model not in self._places:
            self._places[model] = Places(self._queue)
        return self._places[model]

    @asynccontextmanager
    async def _exchange(self, ask: Ask) -> AsyncIterator[aiohttp.ClientResponse]:
        server, response = await self._first_answer(ask)
        try:
            yield response
            self._judge(server, response)
        except ModelError as error:
            self._judge(server, response, error)
            raise
        except (TimeoutError, aiohttp.ClientError) as error:
            self._broken(server, error)
        finally:
            server.outstanding -= 1
            if not response.content.at_eof():
                response.close()

    async def _first_answer(self, ask: Ask) -> tuple[Server, aiohttp.ClientResponse]:
        """A server that refuses the connection has seen nothing of the request, so that another one may get it."""
        tried: list[Server] = []
        while (server := self.servers.pick(ask.model, tried)) is not None:
            server.outstanding += 1
            try:
                response = await self._send(server, ask)
                metrics.upstream_answered(server.url, response.status)
                return server, response
            except BaseException as error:
                server.outstanding -= 1
                tried.append(server)
                if not isinstance(error, (TimeoutError, aiohttp.ClientError)):
                    raise
                if not isinstance(error, aiohttp.ClientConnectorError) or self.servers.pick(ask.model, tried) is None:
                    self._broken(server, error)
                self.servers.failed(server, repr(error))
        raise ModelError(Code.UNAVAILABLE, f"no server behind the gateway serves the model '{ask.model}'")

    async def _send(self, server: Server, ask: Ask) -> aiohttp.ClientResponse:
        limit_s = _CONTROL_TIMEOUT_S if ask.is_control else self._limit_s
        return await self._session.request(
            ask.method,
            URL(server.url + ask.target, encoded=True),
            data=io.BytesIO(ask.body) if ask.body and len(ask.body) > _AT_ONCE_BYTES else ask.body,
            headers={**ask.headers, **self._carried()},
            timeout=aiohttp.ClientTimeout(limit_s, sock_read=server.config.timeout_s, sock_connect=_CONNECT_TIMEOUT_S),
            allow_redirects=False,
        )

    def _carried(self) -> dict[str, str]:
        """The request's id with a number: vLLM refuses an id that it is working on, and clients may use one twice."""
        carried = {}
        if request_id := log.request_id.get():
            carried["X-Request-Id"] = f"{request_id}.{self._prefix}{next(self._numbers):x}"
        if traceparent := tracing.traceparent.get():
            carried["traceparent"] = traceparent
        return carried

    def _judge(self, server: Server, response: aiohttp.ClientResponse, error: ModelError | None = None) -> None:
        is_nonsense = error is not None and error.code is not Code.INVALID_ARG and response.status != 429
        if response.status >= 500 or is_nonsense:
            self.servers.failed(server, error.message if error else f"status {response.status}")
        else:
            self.servers.succeeded(server)

    def _broken(self, server: Server, error: Exception) -> NoReturn:
        self.servers.failed(server, repr(error))
        metrics.upstream_answered(server.url, type(error).__name__)
        _log.warning("%s: %r", server.url, error)
        if isinstance(error, TimeoutError):
            raise ModelError(Code.UNAVAILABLE, "the server behind the gateway did not answer in time") from None
        text = f"the server behind the gateway is not available: {type(error).__name__}"
        raise ModelError(Code.UNAVAILABLE, text, self._queue.retry_after_s) from None
