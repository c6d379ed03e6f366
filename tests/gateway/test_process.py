"""The process: its command line, its signals, its health check and its workers."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from migrate.gateway.__main__ import main

from .conftest import VllmServer, event_stream, send_event
from .front_serving import PATIENCE_S

START_S = 60.0


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@dataclass
class Process:
    """A gateway of its own; `lines` are what it has logged."""

    process: asyncio.subprocess.Process
    session: aiohttp.ClientSession
    port: int
    lines: list[dict[str, Any]]

    async def status(self, path: str, port: int | None = None) -> int:
        """0 where nobody listens."""
        try:
            async with self.session.get(f"http://127.0.0.1:{port or self.port}{path}") as response:
                return response.status
        except aiohttp.ClientError:
            return 0

    async def becomes(self, path: str, status: int) -> None:
        async with asyncio.timeout(START_S):
            while await self.status(path) != status:
                await asyncio.sleep(0.05)

    async def logs(self, message: str, count: int = 1) -> None:
        async with asyncio.timeout(START_S):
            while sum(line["message"].startswith(message) for line in self.lines) < count:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def running(folder: Path, vllm: VllmServer, **settings: Any) -> AsyncIterator[Process]:
    (port,) = free_ports(1)
    models = {"phi2_stream": {"style": "vllm", "upstream_model": "phi-2"}}
    config = {"listen": {"port": port}, "upstream": {"url": vllm.url}, "models": models} | settings
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "migrate.gateway", str(path)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    lines: list[dict[str, Any]] = []
    reading = asyncio.create_task(read(process, lines))
    connector = aiohttp.TCPConnector(force_close=True)
    try:
        async with aiohttp.ClientSession(connector=connector) as session:
            gateway = Process(process, session, port, lines)
            await gateway.becomes("/v2/health/live", 200)
            yield gateway
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def read(process: asyncio.subprocess.Process, lines: list[dict[str, Any]]) -> None:
    assert process.stdout is not None
    async for line in process.stdout:
        lines.append(json.loads(line))


async def test_stopping_lets_a_stream_end(tmp_path: Path, vllm: VllmServer) -> None:
    go_on = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        await send_event(response, {"choices": [{"text": " one"}]})
        await go_on.wait()
        await send_event(response, {"choices": [{"text": " two"}]})
        await response.write(b"data: [DONE]\n\n")
        return response

    vllm.misbehave = slow
    async with running(tmp_path, vllm, drain={"notice_s": 3.0, "limit_s": 60}) as gateway:
        await gateway.becomes("/v2/health/ready", 200)
        url = f"http://127.0.0.1:{gateway.port}/v2/models/phi2_stream/generate_stream"
        async with gateway.session.post(url, json={"text_input": "x", "stream": True}) as response:
            first = await response.content.readline()
            gateway.process.send_signal(signal.SIGTERM)
            await gateway.becomes("/v2/health/ready", 400)
            assert await gateway.status("/v2/health/live") == 200
            await gateway.becomes("/v2/health/live", 0)
            assert gateway.process.returncode is None
            go_on.set()
            rest = await response.content.read()
        assert (b" one" in first, b" two" in rest, b"error" in rest) == (True, True, False)
        assert await asyncio.wait_for(gateway.process.wait(), START_S) == 0


async def test_a_stream_that_does_not_end_in_time_is_cut_off(tmp_path: Path, vllm: VllmServer) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        while True:
            await send_event(response, {"choices": [{"text": " one"}]})
            await asyncio.sleep(0.05)

    vllm.misbehave = endless
    async with running(tmp_path, vllm, drain={"notice_s": 0, "limit_s": 0.2}) as gateway:
        url = f"http://127.0.0.1:{gateway.port}/v1/completions"
        async with gateway.session.post(url, json={"model": "phi-2", "max_tokens": 9}) as response:
            await response.content.readline()
            gateway.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(gateway.process.wait(), START_S) == 0
        await asyncio.wait_for(vllm.cancelled.wait(), PATIENCE_S)


async def test_a_second_signal_ends_it_at_once(tmp_path: Path, vllm: VllmServer) -> None:
    async with running(tmp_path, vllm, drain={"notice_s": 3600}) as gateway:
        gateway.process.send_signal(signal.SIGTERM)
        await gateway.logs("stopping")
        gateway.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(gateway.process.wait(), START_S) == -signal.SIGTERM


async def test_metrics_have_their_own_port(tmp_path: Path, vllm: VllmServer) -> None:
    (port,) = free_ports(1)
    async with running(tmp_path, vllm, metrics={"port": port}) as gateway:
        async with gateway.session.get(f"http://127.0.0.1:{port}/metrics") as response:
            assert "nv_inference_request_success" in await response.text()
        async with gateway.session.post(f"http://127.0.0.1:{port}/metrics") as response:
            assert (response.status, await response.json(content_type=None)) == (405, {"error": "Method Not Allowed"})
        assert await gateway.status("/", port) == 200
        assert await gateway.status("/metrics") == 200


async def test_grpc_stops_too(tmp_path: Path, vllm: VllmServer) -> None:
    (port,) = free_ports(1)
    async with running(tmp_path, vllm, grpc={"port": port}, drain={"notice_s": 0}) as gateway:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
        gateway.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(gateway.process.wait(), START_S) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


async def test_workers_share_the_port_and_are_replaced(tmp_path: Path, vllm: VllmServer) -> None:
    metrics = free_ports(1)[0]
    settings = {"workers": 2, "metrics": {"port": metrics}, "drain": {"notice_s": 0}}
    async with running(tmp_path, vllm, **settings) as gateway:
        await gateway.logs("serving", 2)
        assert [await gateway.status("/metrics", metrics + number) for number in range(2)] == [200, 200]
        victim = children(gateway.process.pid)[0]
        signal_process(victim)
        await gateway.logs("a worker ended")
        await gateway.logs("serving", 3)
        assert victim not in children(gateway.process.pid)
        workers = children(gateway.process.pid)
        gateway.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(gateway.process.wait(), START_S) == 0
        assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def signal_process(pid: int) -> None:
    import os

    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_port_that_is_taken(tmp_path: Path, vllm: VllmServer, workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        path = tmp_path / "gateway.yaml"
        path.write_text(CONFIG.format(port=taken.getsockname()[1], url=vllm.url, workers=workers))
        command = [sys.executable, "-m", "migrate.gateway", str(path)]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, complaint = await asyncio.wait_for(process.communicate(), START_S)
    assert (process.returncode, b"cannot listen on 127.0.0.1" in complaint) == (64, True)


CONFIG = """
listen: {{port: {port}}}
upstream: {{url: "{url}"}}
workers: {workers}
models: {{phi2: {{style: python, upstream_model: phi-2}}}}
"""


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG.format(port=8100, url="http://vllm:8000", workers=1))
    assert main(["--check", str(path)]) == 0
    assert "1 models, 1 upstreams" in capsys.readouterr().out
    path.write_text(path.read_text() + "openai: {keys_file: /no/such/file}\n")
    assert main(["--check", str(path)]) == 64
    assert "openai.keys_file" in capsys.readouterr().err
    assert main(["--chekc", str(path)]) == 64


async def test_the_health_check(tmp_path: Path, vllm: VllmServer, capsys: pytest.CaptureFixture[str]) -> None:
    async with running(tmp_path, vllm):
        path = str(tmp_path / "gateway.yaml")
        assert await asyncio.to_thread(main, ["--healthcheck", path]) == 0
    started = time.monotonic()
    assert main(["--healthcheck", path]) == 1
    assert time.monotonic() - started < START_S
    assert "is not live" in capsys.readouterr().err
