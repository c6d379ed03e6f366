"""The witness against a real server: first everything that must be a failure, then that nothing else is one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from migrate.witness import WitnessConfig, WitnessRun, read, reconcile, summarise, watch

from .conftest import GOOD, TritonServer, stream


async def watched(config: WitnessConfig, during: Callable[[], Awaitable[Any]]) -> WitnessRun:
    stop = asyncio.Event()
    task = asyncio.create_task(watch(replace(config, max_requests=10**6), stop))
    await asyncio.sleep(0.3)
    await during()
    await asyncio.sleep(0.3)
    stop.set()
    return await task


async def test_a_server_that_is_away_for_two_seconds(config: WitnessConfig, triton: TritonServer) -> None:
    async def away() -> None:
        await triton.stop()
        await asyncio.sleep(2)
        await triton.start()

    run = await watched(config, away)
    found = summarise(run.records())
    assert found["failed"] == run.failed >= config.clients
    assert found["longest_gap_ms"] >= 1900
    assert found["answered"] + found["failed"] == found["sent"] == run.sent
    assert "Cannot connect" in found["failures"][-1]["reason"]
    last = list(run.records())[-1]
    assert last.is_answered


async def break_off(request: web.Request) -> web.StreamResponse:
    response = await stream(request, [GOOD])
    await asyncio.sleep(0.01)
    assert request.transport is not None
    request.transport.close()
    return response


async def refuse(_: web.Request) -> web.StreamResponse:
    return web.json_response({"error": "boom"}, status=500)


async def error_under_200(_: web.Request) -> web.StreamResponse:
    return web.json_response({"error": "boom"})


async def error_event(request: web.Request) -> web.StreamResponse:
    return await stream(request, [GOOD, {"error": "late"}])


async def no_event(request: web.Request) -> web.StreamResponse:
    return await stream(request, [])


async def torn_event(request: web.Request) -> web.StreamResponse:
    response = await stream(request, [GOOD])
    await response.write(b'data: {"text_out')
    return response


async def redirect(_: web.Request) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": "/elsewhere"})


async def hang(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError


@pytest.mark.parametrize(
    ("misbehave", "reason"),
    [
        (break_off, "ClientPayloadError"),
        (refuse, "status 500"),
        (error_under_200, "no text_output"),
        (error_event, "late"),
        (no_event, "without an event"),
        (torn_event, "torn"),
        (redirect, "status 307"),
        (hang, "TimeoutError"),
    ],
)
async def test_bad_answers_are_failures(
    config: WitnessConfig, triton: TritonServer, misbehave: Callable[..., Any], reason: str
) -> None:
    triton.misbehave = misbehave
    run = await watch(replace(config, max_requests=16, request_timeout_s=0.3), asyncio.Event())
    found = summarise(run.records())
    assert (found["sent"], found["answered"], found["failed"]) == (16, 0, 16)
    assert any(reason in failure["reason"] for failure in found["failures"])


async def test_dropped_connections_are_not_asked_again(config: WitnessConfig, triton: TritonServer) -> None:
    async def drop(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    triton.misbehave = drop
    run = await watch(replace(config, max_requests=24), asyncio.Event())
    assert (run.sent, run.failed, len(triton.bodies)) == (24, 24, 24)


async def test_all_is_well(config: WitnessConfig, triton: TritonServer) -> None:
    run = await watch(config, asyncio.Event())
    found = summarise(run.records())
    assert (found["sent"], found["answered"], found["failed"], found["failures"]) == (400, 400, 0, [])
    assert set(found["by_kind"]) == {"generate", "generate_stream"}
    assert all(len(peers) == 1 for peers in triton.peers.values())
    assert len(triton.peers) == 8
    assert reconcile(run.records(), {"ids": triton.log})["reconciled"]


async def test_a_lost_id_is_found(config: WitnessConfig, triton: TritonServer) -> None:
    run = await watch(config, asyncio.Event())
    lost, _ = triton.log.popitem()
    found = reconcile(run.records(), {"ids": triton.log})
    assert not found["reconciled"]
    assert found["unlogged"] == [lost]
    assert found["by_upstream"] == {"triton": 399}


async def test_what_is_asked(config: WitnessConfig, triton: TritonServer) -> None:
    await watch(replace(config, max_requests=80), asyncio.Event())
    asked = {body["path"]: body for body in triton.bodies}
    assert set(asked) == {
        "/v2/models/phi2/generate",
        "/v2/models/phi2_stream/generate",
        "/v2/models/phi2_stream/generate_stream",
    }
    assert asked["/v2/models/phi2/generate"]["max_tokens"] == 4
    streamed = asked["/v2/models/phi2_stream/generate_stream"]
    assert streamed["stream"] is True
    assert json.loads(streamed["sampling_parameters"]) == {"max_tokens": 4, "temperature": 0}


async def test_stop_and_limits(config: WitnessConfig) -> None:
    stop = asyncio.Event()
    stop.set()
    assert (await watch(config, stop)).sent == 0
    assert (await watch(replace(config, max_duration_s=0.0), asyncio.Event())).sent == 0
    assert (await watch(replace(config, max_requests=9), asyncio.Event())).sent == 9


async def test_two_runs_in_one_file(config: WitnessConfig) -> None:
    first = await watch(replace(config, max_requests=10), asyncio.Event())
    second = await watch(replace(config, max_requests=12, run="other"), asyncio.Event())
    assert len(list(first.records())) == 10
    assert len(list(second.records())) == 12
    with config.record_file.open("a") as file:
        file.write('{"id": "torn')
    assert len(list(read(config.record_file))) == 22


@pytest.mark.parametrize(
    ("change", "named"),
    [({"run": "a/b"}, "run"), ({"clients": 7}, "clients"), ({"models": {}}, "model"), ({"models": {"m": "x"}}, "x")],
)
def test_settings_that_cannot_be_used(config: WitnessConfig, change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        replace(config, **change)


async def test_a_stream_that_only_the_closed_connection_ends(config: WitnessConfig) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\ndata: {"text_output":"x"}\n\n')
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        run = await watch(replace(config, base_url=url, max_requests=16), asyncio.Event())
    streams = [record for record in run.records() if record.kind == "generate_stream"]
    assert streams
    assert not any(record.is_answered for record in streams)
