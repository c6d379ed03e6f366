"""A small server that speaks Triton's generate and generate_stream, keeps an access log, and can misbehave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from migrate.witness import WitnessConfig

GOOD = {"model_name": "m", "model_version": "1", "text_output": " x"}


@dataclass
class TritonServer:
    """`misbehave` replaces an answer; `log` is what an access log would hold: id -> status."""

    port: int = 0
    log: dict[str, dict[str, Any]] = field(default_factory=dict)
    peers: dict[str, set[Any]] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    misbehave: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/v2/models/{model}/{kind}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        request_id = request.headers["Referer"].removeprefix("http://witness.invalid/")
        assert request.transport is not None
        client = request_id.rsplit("-", 1)[0]
        self.peers.setdefault(client, set()).add(request.transport.get_extra_info("peername"))
        self.bodies.append({"path": request.path} | await request.json())
        await asyncio.sleep(0.002)
        if self.misbehave is not None:
            response = await self.misbehave(request)
        elif request.match_info["kind"] == "generate_stream":
            response = await stream(request, [GOOD, GOOD])
        else:
            response = web.json_response(GOOD)
        self.log[request_id] = {"status": response.status, "upstream": "triton"}
        return response


async def stream(request: web.Request, events: list[dict[str, Any]]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    for event in events:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
    return response


@pytest.fixture
async def triton() -> AsyncIterator[TritonServer]:
    server = TritonServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def config(triton: TritonServer, tmp_path: Path) -> WitnessConfig:
    return WitnessConfig(
        base_url=triton.url,
        models={"phi2": "python", "phi2_stream": "vllm"},
        run="20261121T110000Z-gpu01-1a2b3c4d",
        record_file=tmp_path / "witness.jsonl",
        max_duration_s=30,
        max_requests=400,
    )
