"""vLLM servers that are down, reset, stall, answer nonsense or stop in the middle, seen from Triton's side."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest
from aiohttp import web

from migrate.gateway.errors import Code, ModelError, TritonError
from migrate.gateway.observe import log
from migrate.gateway.vllm.upstreams import Upstreams

from .conftest import VllmServer, event_stream, send_event
from .front_serving import PATIENCE_S, answering, bytes_server, config_of, front_serving

BODY = {"model": "phi-2", "prompt": "x", "max_tokens": 3}
NOBODY = "http://127.0.0.1:9"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECE = b'data: {"choices":[{"text":" one"}]}\n\n'


def whole(body: bytes, kind: bytes = b"application/json") -> bytes:
    return HEAD % (kind, len(body), body)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def streamed(pool: Upstreams) -> list[str]:
    texts = []
    async with aclosing(pool.stream(BODY, model="phi2")) as chunks:
        async for piece in chunks:
            texts.append(piece.text)
    return texts


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (b"", Code.UNAVAILABLE, "is not available: ServerDisconnectedError"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", Code.UNAVAILABLE, "is not available"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Code.UNAVAILABLE, "is not available"),
        (whole(b"<html>", b"text/html"), Code.INTERNAL, "answered with text/html"),
        (whole(b"[1]"), Code.INTERNAL, "answered with application/json"),
        (whole(b"{}"), Code.INTERNAL, "sent no completion"),
        (whole(b'{"choices":[{}]}'), Code.INTERNAL, "sent no completion"),
        (whole(b'{"choices":5}'), Code.INTERNAL, "sent no completion"),
        (whole(b'{"error":{"message":"engine is dead"}}'), Code.INTERNAL, "engine is dead"),
        (whole(b'{"error":{"message":"too long","code":400}}'), Code.INVALID_ARG, "too long"),
        (whole(b'{"error":"queue is full","code":1}'), Code.INTERNAL, "queue is full"),
        (HEAD % (b"application/json", 999, b'{"choices"'), Code.UNAVAILABLE, "is not available: ClientPayloadError"),
        (
            b"HTTP/1.1 502 X\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
            Code.UNAVAILABLE,
            "text/html",
        ),
        (b"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n", Code.INTERNAL, ""),
        (b"HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n", Code.INTERNAL, "may not use the server"),
    ],
)
async def test_a_broken_answer(answer: bytes, code: Code, text: str) -> None:
    async with bytes_server(answer) as url, Upstreams(config_of(url)) as pool:
        with pytest.raises(ModelError) as raised:
            await pool.complete(BODY, model="phi2")
    assert raised.value.code is code
    assert text in raised.value.message


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (CHUNKED + chunk(PIECE), Code.UNAVAILABLE, "is not available: ClientPayloadError"),
        (CHUNKED + chunk(PIECE) + b"0\r\n\r\n", Code.UNAVAILABLE, "ended its answer early"),
        (CHUNKED + chunk(PIECE) + chunk(b"data: what\n\n"), Code.INTERNAL, "what"),
        (CHUNKED + chunk(PIECE) + chunk(b'data: {"error":{"message":"out of memory"}}\n\n'), Code.INTERNAL, "memory"),
        (CHUNKED + chunk(PIECE) + chunk(b'data: {"choices":[{"txt":1}]}\n\n'), Code.INTERNAL, "no completion"),
        (whole(b"<html>", b"text/html"), Code.INTERNAL, "answered with text/html"),
        (whole(b'{"choices":[{"text":" one"}]}'), Code.INTERNAL, "answered with application/json"),
        (whole(b'{"error":{"message":"no","code":400}}'), Code.INVALID_ARG, "no"),
    ],
)
async def test_a_broken_stream(answer: bytes, code: Code, text: str) -> None:
    async with bytes_server(answer) as url, Upstreams(config_of(url)) as pool:
        with pytest.raises(ModelError) as raised:
            await streamed(pool)
    assert raised.value.code is code
    assert text in raised.value.message


async def test_a_whole_stream() -> None:
    answer = CHUNKED + chunk(b": comment\n\n" + PIECE[:9]) + chunk(PIECE[9:] + b"data: [DONE]\n\n") + b"0\r\n\r\n"
    async with bytes_server(answer) as url, Upstreams(config_of(url)) as pool:
        assert await streamed(pool) == [" one"]


async def test_an_answer_without_end_is_given_up() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        while True:
            await response.write(b"x" * (1 << 20))

    async with answering(endless) as url, Upstreams(config_of(url)) as pool:
        with pytest.raises(ModelError, match="a line without end"):
            await streamed(pool)
        with pytest.raises(ModelError, match="an answer without end"):
            await pool.complete(BODY, model="phi2")


@pytest.mark.parametrize("answer", [b"", CHUNKED + chunk(PIECE)])
async def test_a_stalled_server_is_given_up(answer: bytes) -> None:
    async with bytes_server(answer, then_hang=True) as url:
        upstream = {"url": url, "timeout_s": 0.05}
        async with Upstreams(config_of(upstreams=[upstream])) as pool:
            with pytest.raises(ModelError, match="did not answer in time") as raised:
                await streamed(pool)
    assert raised.value.code is Code.UNAVAILABLE


async def test_the_deadline_ends_a_stream_that_never_falls_silent() -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        while True:
            await send_event(response, {"choices": [{"text": " one"}]})
            await asyncio.sleep(0.01)

    async with answering(slow) as url, Upstreams(config_of(url, limits={"request_timeout_s": 0.1})) as pool:
        with pytest.raises(ModelError, match="did not answer in time"):
            await streamed(pool)


async def test_a_server_that_refuses_connections_is_passed_over(vllm: VllmServer) -> None:
    async with Upstreams(config_of(NOBODY, vllm.url)) as pool:
        for _ in range(4):
            assert (await pool.complete(BODY, model="phi2")).text == " one two three"


async def test_no_server_at_all() -> None:
    async with Upstreams(config_of(NOBODY, "http://127.0.0.1:7")) as pool:
        with pytest.raises(ModelError, match="is not available: ClientConnectorError") as raised:
            await pool.complete(BODY, model="phi2")
        assert not await pool.answers()
    assert (raised.value.code, raised.value.retry_after_s) == (Code.UNAVAILABLE, 1.0)


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n", whole(b"<html>", b"text/html")]
)
async def test_a_sick_server_is_left_alone_until_it_is_well(vllm: VllmServer, answer: bytes) -> None:
    async with bytes_server(answer) as sick, Upstreams(config_of(sick, vllm.url)) as pool:
        failures = 0
        for _ in range(40):
            try:
                await pool.complete(BODY, model="phi2")
            except ModelError:
                failures += 1
        assert failures == 3
        assert [server.is_up for server in pool.connections.servers.all] == [False, True]


async def test_a_bad_request_is_no_sickness(vllm: VllmServer) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no"}}, status=400)

    vllm.misbehave = refuse
    async with Upstreams(config_of(vllm.url)) as pool:
        for _ in range(5):
            with pytest.raises(ModelError, match="no"):
                await pool.complete(BODY, model="phi2")
        assert pool.connections.servers.all[0].is_up


async def test_requests_go_to_the_server_with_the_fewest() -> None:
    async with AsyncExitStack() as stack:
        servers, release = [VllmServer(), VllmServer()], asyncio.Event()

        def wait_or_answer(server: VllmServer) -> Callable[[web.Request], Any]:
            async def handle(_: web.Request) -> web.Response:
                await release.wait()
                return web.json_response({"choices": [{"text": ""}]})

            return handle

        urls = []
        for server in servers:
            server.misbehave = wait_or_answer(server)
            urls.append(await stack.enter_async_context(answering(server._completions)))
        pool = await stack.enter_async_context(Upstreams(config_of(*urls)))
        asking = [asyncio.create_task(pool.complete(BODY | {"stream": False}, model="phi2")) for _ in range(10)]
        while sum(len(server.bodies) for server in servers) < 10:
            await asyncio.sleep(0.01)
        assert [len(server.bodies) for server in servers] == [5, 5]
        assert [server.outstanding for server in pool.connections.servers.all] == [5, 5]
        release.set()
        await asyncio.gather(*asking)
        assert [server.outstanding for server in pool.connections.servers.all] == [0, 0]


async def test_leaving_a_stream_closes_the_request_and_frees_its_place() -> None:
    closed, begun = asyncio.Event(), asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        try:
            while True:
                await send_event(response, {"choices": [{"text": " one"}]})
                begun.set()
                await asyncio.sleep(0.01)
        finally:
            closed.set()

    queue = {"max_in_flight": 1, "max_waiting": 0}
    async with answering(endless) as url, Upstreams(config_of(url, queue=queue)) as pool:
        chunks = pool.stream(BODY, model="phi2")
        await anext(chunks)
        with pytest.raises(ModelError, match="queue of the gateway is full"):
            await pool.complete(BODY, model="phi2")
        await chunks.aclose()
        await asyncio.wait_for(closed.wait(), PATIENCE_S)
        assert pool.connections.servers.all[0].outstanding == 0
        chunks = pool.stream(BODY, model="phi2")
        await anext(chunks)
        await chunks.aclose()


async def test_a_full_queue_over_http(vllm: VllmServer) -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    vllm.misbehave = hang
    queue = {"max_in_flight": 1, "max_waiting": 0, "retry_after_s": 2.5}
    async with front_serving(config_of(vllm.url, queue=queue)) as gateway:
        holding = asyncio.create_task(gateway.generate())
        await asyncio.wait_for(vllm.started.wait(), PATIENCE_S)
        for answer in (await gateway.generate(), await gateway.complete()):
            assert answer.error == (503, "the queue of the gateway is full, try again")
            assert answer.headers["Retry-After"] == "3"
        page = (await gateway.ask("GET", "/metrics")).body.decode()
        assert 'gateway_refused_total{reason="queue"}' in page
        holding.cancel()


async def test_vllm_hears_the_request_id_each_time_another_number(vllm: VllmServer) -> None:
    heard = []

    async def answer(request: web.Request) -> web.Response:
        heard.append(request.headers["X-Request-Id"])
        return web.json_response({"choices": [{"text": ""}]})

    vllm.misbehave = answer
    async with Upstreams(config_of(vllm.url)) as pool:
        log.accept("order-17")
        for _ in range(2):
            await pool.complete(BODY, model="phi2")
    assert all(one.startswith("order-17.") for one in heard)
    assert len(set(heard)) == 2


async def test_a_model_that_vllm_does_not_serve(vllm: VllmServer) -> None:
    async with Upstreams(config_of(vllm.url)) as pool:
        assert await pool.missing("phi-2") == ""
        assert await pool.missing("llama") == "no server behind the gateway serves the model 'llama'"
        assert await pool.context_length("llama") == 0
    async with Upstreams(config_of(NOBODY)) as pool:
        assert "is not available" in await pool.missing("phi-2")


async def test_one_question_for_the_lengths_of_many_requests() -> None:
    asked = 0

    async def models(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.05)
        return web.Response(text=json.dumps({"data": [{"id": "phi-2", "max_model_len": 64}, "what", {}]}))

    async with answering(models) as url, Upstreams(config_of(url)) as pool:
        assert await asyncio.gather(*(pool.context_length("phi-2") for _ in range(20))) == [64] * 20
    assert asked == 1


async def test_not_ready_while_stopping(vllm: VllmServer) -> None:
    async with Upstreams(config_of(vllm.url)) as pool:
        assert await pool.answers()
        pool.is_draining = True
        assert not await pool.answers()


async def test_an_unknown_model_at_vllm(vllm: VllmServer) -> None:
    async def unknown(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "The model `phi-2` does not exist."}}, status=404)

    vllm.misbehave = unknown
    async with Upstreams(config_of(vllm.url)) as pool:
        with pytest.raises(TritonError, match="unknown model: 'phi2' is not found"):
            await pool.complete(BODY, model="phi2")
