"""Models that stay on Triton, over HTTP."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from migrate.gateway.web.passthrough import model_of

from .conftest import VllmServer, event_stream
from .front_serving import PATIENCE_S, answering, bytes_server, config_of, front_serving
from .test_upstreams import NOBODY


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v2/models/ranker", "ranker"),
        ("/v2/models/ranker/infer", "ranker"),
        ("/v2/models/ranker/versions/2/generate_stream", "ranker"),
        ("/v2/repository/models/ranker/load", "ranker"),
        ("/v2/models/stats", None),
        ("/v2/models/stats/infer", "stats"),
        ("/v2/models/", None),
        ("/v2/repository/index", None),
        ("/v2", None),
        ("/v1/models/ranker", None),
    ],
)
def test_which_paths_name_a_model(path: str, model: str | None) -> None:
    assert model_of(path) == model


@pytest.mark.parametrize("is_chunked", [True, False])
async def test_bytes_go_there_and_back_as_they_are(vllm: VllmServer, is_chunked: bool) -> None:
    sent, seen = os.urandom(3_000_000), []

    async def triton(request: web.Request) -> web.Response:
        body = await request.read()
        seen.append((request.method, request.raw_path, request.headers, body))
        headers = {"Inference-Header-Content-Length": "7", "Content-Encoding": "gzip"}
        return web.Response(body=body[::-1], status=299, headers=headers)

    async with answering(triton) as url:
        async with front_serving(config_of(vllm.url, passthrough={"url": url})) as gateway:
            headers = {"Inference-Header-Content-Length": "123", "X-Request-Id": "order-17"}
            path = "/v2/models/ranker/infer?x=%2F"
            body = aiohttp.AsyncIterablePayload(blocks(sent)) if is_chunked else io.BytesIO(sent)
            found = await gateway.ask("POST", path, data=body, headers=headers)
    method, target, heard, received = seen[0]
    assert (method, target, received) == ("POST", path, sent)
    assert (heard["Inference-Header-Content-Length"], heard["X-Request-Id"]) == ("123", "order-17")
    assert ("Content-Length" in heard) is not is_chunked
    assert (found.status, found.body) == (299, sent[::-1])
    assert (found.headers["Content-Encoding"], found.headers["Inference-Header-Content-Length"]) == ("gzip", "7")


async def blocks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


async def test_a_stream_arrives_event_by_event(vllm: VllmServer) -> None:
    go_on = asyncio.Event()

    async def triton(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        await response.write(b"data: 1\n\n")
        await go_on.wait()
        await response.write(b"data: 2\n\n")
        return response

    async with answering(triton) as url:
        async with front_serving(config_of(vllm.url, passthrough={"url": url})) as gateway:
            async with gateway.session.post(gateway.url + "/v2/models/ranker/generate_stream", data=b"{}") as response:
                assert await asyncio.wait_for(response.content.readany(), PATIENCE_S) == b"data: 1\n\n"
                go_on.set()
                assert await response.read() == b"data: 2\n\n"


async def test_our_own_models_do_not_go_to_triton(vllm: VllmServer) -> None:
    async with front_serving(config_of(vllm.url, passthrough={"url": NOBODY})) as gateway:
        assert (await gateway.generate("phi2")).status == 200
        assert (await gateway.ask("GET", "/v2/models/stats")).status == 200
        assert (await gateway.ask("GET", "/v2")).status == 200


async def test_without_triton_another_model_is_unknown(vllm: VllmServer) -> None:
    async with front_serving(config_of(vllm.url)) as gateway:
        assert (await gateway.generate("ranker")).error == (404, "Request for unknown model: 'ranker' is not found")


async def test_triton_is_down(vllm: VllmServer) -> None:
    async with front_serving(config_of(vllm.url, passthrough={"url": NOBODY})) as gateway:
        status, text = (await gateway.generate("ranker")).error
    assert (status, text) == (503, "the Triton server behind the gateway is not available: ClientConnectorError")


async def test_triton_breaks_off(vllm: VllmServer) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf"
    async with bytes_server(answer) as url:
        async with front_serving(config_of(vllm.url, passthrough={"url": url})) as gateway:
            with pytest.raises(aiohttp.ClientPayloadError):
                await gateway.generate("ranker")


@pytest.mark.parametrize("is_uploading", [True, False])
async def test_a_client_that_leaves(vllm: VllmServer, is_uploading: bool) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def triton(request: web.Request) -> web.Response:
        begun.set()
        try:
            await request.read()
            await asyncio.sleep(60)
        finally:
            cancelled.set()
        return web.Response()

    async def hesitant() -> AsyncIterator[bytes]:
        yield b"{"
        if is_uploading:
            await asyncio.sleep(60)

    async with answering(triton) as url:
        async with front_serving(config_of(vllm.url, passthrough={"url": url})) as gateway:
            path = "/v2/models/ranker/infer"
            asking = asyncio.create_task(gateway.ask("POST", path, data=aiohttp.AsyncIterablePayload(hesitant())))
            await asyncio.wait_for(begun.wait(), PATIENCE_S)
            asking.cancel()
            await asyncio.wait_for(cancelled.wait(), PATIENCE_S)


async def test_a_body_that_is_too_long_or_too_slow(vllm: VllmServer) -> None:
    async def triton(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async with answering(triton) as url:
        limits = {"max_body_bytes": 1000, "body_timeout_s": 0.2}
        config = config_of(vllm.url, passthrough={"url": url}, limits=limits)
        async with front_serving(config) as gateway:
            path = "/v2/models/ranker/infer"
            long = await gateway.ask("POST", path, data=aiohttp.AsyncIterablePayload(blocks(b"x" * 1001)))
            head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf" % path.encode()
            slow = await gateway.raw(head)
    assert long.error == (413, "the request is longer than 1000 bytes")
    assert b" 408 " in slow.split(b"\r\n")[0]
