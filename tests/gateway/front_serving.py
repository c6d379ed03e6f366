"""The whole HTTP side of the gateway on a real port, with its own protocol class, and requests made of raw bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from migrate.gateway.config import GatewayConfig
from migrate.gateway.core.engine import Engine
from migrate.gateway.core.models import Registry
from migrate.gateway.openai.keys import Keys
from migrate.gateway.openai.v1 import OpenAiSide
from migrate.gateway.vllm.upstreams import Upstreams
from migrate.gateway.web import front
from migrate.gateway.web.listener import Listener, listen
from migrate.gateway.web.passthrough import Passthrough
from migrate.gateway.web.triton import build_app

from .conftest import serving

PHI2 = {"style": "python", "upstream_model": "phi-2"}
STREAM = {"style": "vllm", "upstream_model": "phi-2"}
PATIENCE_S = 10.0


def config_of(*urls: str, **more: Any) -> GatewayConfig:
    """Two models and any number of servers behind."""
    servers = [{"url": url, "timeout_s": 5.0} for url in urls]
    models = {"phi2": PHI2, "phi2_stream": STREAM}
    listening = {"host": "127.0.0.1", "port": 1}
    return GatewayConfig.model_validate({"listen": listening, "upstreams": servers, "models": models} | more)


@dataclass
class Front:
    """A running gateway and its parts."""

    session: aiohttp.ClientSession
    port: int
    pool: Upstreams

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        async with self.session.request(method, URL(self.url + path, encoded=True), **options) as response:
            return Answer(response.status, await response.read(), response.headers)

    async def complete(self, body: Any = None, **headers: str) -> Answer:
        given = {"model": "phi-2", "prompt": "x", "max_tokens": 3, "stream": False} if body is None else body
        data = given if isinstance(given, bytes) else json.dumps(given).encode()
        return await self.ask("POST", "/v1/completions", data=data, headers=JSON | headers)

    async def generate(self, model: str = "phi2") -> Answer:
        return await self.ask("POST", f"/v2/models/{model}/generate", data=b'{"text_input":"x"}')

    async def raw(self, *parts: bytes, pause_s: float = 0.0) -> bytes:
        """What comes back for bytes as they are, until the gateway closes, also when it resets."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        reading = asyncio.create_task(_read(reader))
        try:
            with suppress(ConnectionError):
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(pause_s)
            return await asyncio.wait_for(reading, PATIENCE_S)
        finally:
            reading.cancel()
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> bytes:
    answer = b""
    with suppress(ConnectionError):
        while block := await reader.read(65536):
            answer += block
    return answer


JSON = {"Content-Type": "application/json"}


@dataclass
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """Status and message, in OpenAI's form or in Triton's."""
        error = self.json["error"]
        return self.status, error["message"] if isinstance(error, dict) else error


@asynccontextmanager
async def front_serving(config: GatewayConfig, keys: Mapping[str, str] | None = None) -> AsyncIterator[Front]:
    """A gateway whose clients have `keys`, by name."""
    passthrough = Passthrough(config.passthrough) if config.passthrough else None
    async with Upstreams(config, "the-key-of-vllm") as pool:
        if passthrough is not None:
            await passthrough.open()
        registry = Registry(config, missing=pool.missing)
        openai = OpenAiSide(lambda: config, pool.connections, Keys(keys or {}), pool.key)
        triton = build_app(Engine(registry, pool), registry, config, pool.answers)
        parts = front.Parts(
            triton, openai if config.openai.is_enabled else None, passthrough, lambda name: name in config.models
        )
        listener = listen("127.0.0.1", 0, config)
        serving = Listener(front.build(parts, config.limits), listener, config.limits)
        await serving.start()
        port = listener.getsockname()[1]
        try:
            async with aiohttp.ClientSession(auto_decompress=False) as session:
                yield Front(session, port, pool)
        finally:
            await serving.stop(1.0)
            if passthrough is not None:
                await passthrough.close()


Handler = Callable[[web.Request], Any]


@asynccontextmanager
async def answering(handler: Handler, *, is_healthy: bool = True) -> AsyncIterator[str]:
    """The URL of a server that answers every path but /health with one handler."""

    async def health(_: web.Request) -> web.Response:
        return web.Response(status=200 if is_healthy else 503)

    app = web.Application(client_max_size=1 << 30)
    app.router.add_get("/health", health)
    app.router.add_route("*", "/{path:.*}", handler)
    async with serving(app) as url:
        yield url


@asynccontextmanager
async def bytes_server(answer: bytes, *, then_hang: bool = False) -> AsyncIterator[str]:
    """The URL of a server that reads a request's head and answers with bytes as they are, and then closes or hangs."""

    running: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                await writer.drain()
                if then_hang:
                    await reader.read()
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
