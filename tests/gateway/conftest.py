"""A gateway on a real port, in front of a small server that speaks vLLM's /v1/completions on another."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import uvicorn
from aiohttp import web
from starlette.types import ASGIApp

from migrate.gateway.config import GatewayConfig
from migrate.gateway.core.engine import Engine
from migrate.gateway.core.models import Registry
from migrate.gateway.vllm.upstreams import Upstreams
from migrate.gateway.web.triton import build_app

WORDS = [" one", " two", " three"]


@dataclass
class VllmServer:
    """Speaks vLLM's completions, whole and as events; `misbehave` replaces its answer."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    misbehave: Callable[[web.Request], Any] | None = None
    is_healthy: bool = True
    context_length: int = 2048
    tokenized: int = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/v1/completions", self._completions)
        return app

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.is_healthy else 503)

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "phi-2", "max_model_len": self.context_length}]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        self.tokenized += 1
        words = (await request.json())["prompt"].split()
        return web.json_response({"count": len(words), "max_model_len": self.context_length})

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.started.set()
        try:
            if self.misbehave is not None:
                return await self.misbehave(request)
            pieces = WORDS[: body["max_tokens"]]
            if body["stream"]:
                return await self._stream(request, body, pieces)
            return web.json_response({"choices": [self._choice(body, pieces, is_first=True, is_last=True)]})
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _stream(self, request: web.Request, body: dict[str, Any], pieces: list[str]) -> web.StreamResponse:
        response = await event_stream(request)
        await response.write(b": keep-alive\n\n")
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            await send_event(response, {"choices": [self._choice(body, [piece], is_first=number == 0, is_last=last)]})
        await response.write(b"data: [DONE]\n\n")
        return response

    @staticmethod
    def _choice(body: dict[str, Any], pieces: list[str], *, is_first: bool, is_last: bool) -> dict[str, Any]:
        with_ids, with_logprobs = body.get("return_token_ids"), body.get("logprobs") is not None
        return {
            "index": 0,
            "text": "".join(pieces),
            "token_ids": [100 + WORDS.index(piece) for piece in pieces] if with_ids else None,
            "prompt_token_ids": [1, 2, 3, 4] if with_ids and is_first else None,
            "logprobs": {"token_logprobs": [-0.1] * len(pieces)} if with_logprobs else None,
            "finish_reason": "length" if is_last else None,
        }


async def event_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    return response


async def send_event(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def gateway_serving(config: GatewayConfig) -> AsyncIterator[str]:
    async with Upstreams(config) as pool:
        registry = Registry(config, missing=pool.missing)
        async with listening(build_app(Engine(registry, pool), registry, config, pool.answers)) as url:
            yield url


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))
    serving_task = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        with suppress(asyncio.CancelledError):
            await serving_task
        listener.close()


@pytest.fixture
async def vllm() -> AsyncIterator[VllmServer]:
    server = VllmServer()
    async with serving(server.app()) as url:
        server.url = url
        yield server


@pytest.fixture
def gateway_config(vllm: VllmServer) -> GatewayConfig:
    return config_for(vllm.url)


def config_for(url: str, timeout_s: float = 5.0) -> GatewayConfig:
    return GatewayConfig.model_validate(
        {
            "upstream": {"url": url, "timeout_s": timeout_s},
            "models": {
                "phi2": {"style": "python", "upstream_model": "phi-2"},
                "phi2_stream": {"style": "vllm", "upstream_model": "phi-2"},
            },
        }
    )


@dataclass
class Client:
    """Asks the gateway and gives back status and body."""

    session: aiohttp.ClientSession
    url: str

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self.session.request(method, self.url + path, **options) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None

    async def generate(self, model: str, body: Any, version: str = "") -> tuple[int, Any]:
        data = body if isinstance(body, (str, bytes)) else json.dumps(body)
        return await self.ask("POST", f"/v2/models/{model}{version}/generate", data=data)

    async def stream(self, model: str, body: Any) -> tuple[int, str, list[Any]]:
        url = f"{self.url}/v2/models/{model}/generate_stream"
        async with self.session.post(url, data=json.dumps(body)) as response:
            text = await response.text()
        events = [json.loads(part.removeprefix("data: ")) for part in text.split("\n\n") if part]
        return response.status, response.headers["Content-Type"], events


@asynccontextmanager
async def client_of(config: GatewayConfig) -> AsyncIterator[Client]:
    async with gateway_serving(config) as url, aiohttp.ClientSession() as session:
        yield Client(session, url)


@pytest.fixture
async def client(gateway_config: GatewayConfig) -> AsyncIterator[Client]:
    async with client_of(gateway_config) as found:
        yield found
