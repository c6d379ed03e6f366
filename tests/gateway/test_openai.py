"""The /v1 side: what is refused, what is passed on byte for byte, and vLLM servers that misbehave."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from .conftest import VllmServer, event_stream, send_event
from .front_serving import JSON, PATIENCE_S, Front, answering, bytes_server, config_of, front_serving
from .test_upstreams import CHUNKED, HEAD, NOBODY, chunk, whole

KEYS = {"ada": "ada-secret-key-000", "bob": "bob-secret-key-000"}
EVENT = b'data: {"choices":[{"text":" \xc3\xa9"}]}\n\n'
STREAMED = {"model": "phi-2", "prompt": "x", "max_tokens": 3, "stream": True}


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"", 400, "the body is not JSON"),
        (b"{", 400, "the body is not JSON"),
        (b'{"model":"phi-2","prompt":"\xff"}', 400, "the body is not JSON"),
        (b"[" * 200_000, 400, "the body is not JSON"),
        (b'{"model":' + b"9" * 5000 + b"}", 400, "the body is not JSON"),
        (b"[1]", 400, "the body must be a JSON object"),
        (b'"x"', 400, "the body must be a JSON object"),
        (b"{}", 400, "'model' must be the name of a model"),
        (b'{"model":7}', 400, "'model' must be the name of a model"),
        (b'{"model":""}', 400, "'model' must be the name of a model"),
        (b'{"model":"llama","prompt":"x"}', 404, "the model 'llama' does not exist"),
    ],
)
async def test_bodies_that_are_refused(vllm: VllmServer, body: bytes, status: int, text: str) -> None:
    async with front_serving(config_of(vllm.url)) as gateway:
        answer = await gateway.complete(body)
    assert (answer.status, answer.error[1][: len(text)]) == (status, text)
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}
    assert vllm.bodies == []


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415, "unsupported_media_type"),
        (JSON | {"Content-Encoding": "gzip"}, 415, "unsupported_content_encoding"),
    ],
)
async def test_headers_that_are_refused(vllm: VllmServer, headers: dict[str, str], status: int, code: str) -> None:
    async with front_serving(config_of(vllm.url)) as gateway:
        answer = await gateway.ask("POST", "/v1/completions", data=json.dumps(STREAMED), headers=headers)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    assert vllm.bodies == []


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter/", "/v1/%6coad_lora_adapter"])
async def test_vllms_switches_are_for_its_operator(vllm: VllmServer, path: str) -> None:
    async with front_serving(config_of(vllm.url)) as gateway:
        raw = b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % path.encode()
        assert b" 403 " in (await gateway.raw(raw)).split(b"\r\n")[0]


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ada-secret-key-00", 401),
        ("Basic ada-secret-key-000", 401),
        ("Bearer the-key-of-vllm", 401),
        ("Bearer ada-secret-key-000", 200),
        ("bearer  bob-secret-key-000", 200),
    ],
)
async def test_keys(authorization: str | None, status: int) -> None:
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({"data": []})

    headers = {} if authorization is None else {"Authorization": authorization}
    async with answering(answer) as url, front_serving(config_of(url), KEYS) as gateway:
        found = await gateway.ask("GET", "/v1/models", headers=headers)
    assert found.status == status
    assert seen == ["Bearer the-key-of-vllm"] * (status == 200)
    if status == 401:
        assert (found.headers["WWW-Authenticate"], found.json["error"]["code"]) == ("Bearer", "invalid_api_key")


async def test_without_keys_vllms_own_key_is_lent_to_nobody() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"seen": request.headers.get("Authorization")})

    async with answering(answer) as url, front_serving(config_of(url)) as gateway:
        assert (await gateway.ask("GET", "/v1/models")).json == {"seen": None}
        own = await gateway.ask("GET", "/v1/models", headers={"Authorization": "Bearer mine"})
        assert own.json == {"seen": "Bearer mine"}


async def test_a_key_sends_no_more_than_its_rate(vllm: VllmServer) -> None:
    rates = {"ada": {"requests_per_s": 0.001, "burst": 2}}
    async with front_serving(config_of(vllm.url, openai={"rates": rates}), KEYS) as gateway:
        statuses = [(await gateway.complete(Authorization="Bearer ada-secret-key-000")).status for _ in range(3)]
        refused = await gateway.complete(Authorization="Bearer ada-secret-key-000")
        other = await gateway.complete(Authorization="Bearer bob-secret-key-000")
    assert (statuses, other.status) == ([200, 200, 429], 200)
    assert refused.json["error"]["code"] == "rate_limit_exceeded"
    assert int(refused.headers["Retry-After"]) > 500


async def test_a_key_has_no_more_requests_at_once_than_it_may(vllm: VllmServer) -> None:
    release = asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        await release.wait()
        return web.json_response({})

    vllm.misbehave = wait
    openai = {"rate": {"concurrent": 1}}
    async with front_serving(config_of(vllm.url, openai=openai), KEYS) as gateway:
        first = asyncio.create_task(gateway.complete(Authorization="Bearer ada-secret-key-000"))
        await asyncio.wait_for(vllm.started.wait(), PATIENCE_S)
        refused = await gateway.complete(Authorization="Bearer ada-secret-key-000")
        release.set()
        assert refused.json["error"]["code"] == "concurrency_limit_exceeded"
        assert (await first).status == 200
        assert (await gateway.complete(Authorization="Bearer ada-secret-key-000")).status == 200


async def test_bytes_go_there_and_back_as_they_are() -> None:
    seen: list[tuple[Any, ...]] = []
    sent = b'{ "model" : "phi-2","prompt":"\\u00e9 \xc3\xa9",  "n":1.0e0 }\n'
    given = b'{"id" : "cmpl-1",\n "choices":[ ]  }\n'

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.method, request.raw_path, await request.read(), request.headers))
        return web.Response(body=given, status=418, content_type="application/json", headers={"X-Vllm": "yes"})

    async with answering(answer) as url, front_serving(config_of(url)) as gateway:
        headers = JSON | {"X-Mine": "1", "Accept-Encoding": "br", "X-Request-Id": "order-17"}
        found = await gateway.ask("POST", "/v1/chat/completions?a=%2F&b=%20x", data=sent, headers=headers)
    method, path, body, heard = seen[0]
    assert (method, path, body) == ("POST", "/v1/chat/completions?a=%2F&b=%20x", sent)
    assert (heard["X-Mine"], heard["Accept-Encoding"], heard["Content-Length"]) == ("1", "br", str(len(sent)))
    assert heard["X-Request-Id"].startswith("order-17.")
    assert (found.status, found.body, found.headers["X-Vllm"]) == (418, given, "yes")
    assert found.headers["X-Request-Id"] == "order-17"


@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", b"data: [DONE]"])
async def test_streams_are_passed_on_byte_for_byte(end: bytes) -> None:
    body = b": ping\n\n" + EVENT[:20]
    sent = CHUNKED + chunk(body) + chunk(EVENT[20:]) + chunk(end) + b"0\r\n\r\n"
    async with bytes_server(sent) as url, front_serving(config_of(url)) as gateway:
        found = await gateway.complete(STREAMED)
    assert (found.status, found.body) == (200, body + EVENT[20:] + end)
    assert found.headers["Content-Type"] == "text/event-stream"


async def test_a_stream_arrives_event_by_event() -> None:
    go_on = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        await response.write(EVENT)
        await go_on.wait()
        await response.write(b"data: [DONE]\n\n")
        return response

    async with answering(answer) as url, front_serving(config_of(url)) as gateway:
        async with gateway.session.post(gateway.url + "/v1/completions", json=STREAMED) as response:
            assert await asyncio.wait_for(response.content.readany(), PATIENCE_S) == EVENT
            go_on.set()
            assert await response.read() == b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        (b"", 503, "is not available: ServerDisconnectedError"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", 503, "is not available"),
        (whole(b"<html>", b"text/html"), 502, "answered 200 with text/html"),
        (b"HTTP/1.1 502 X\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>", 502, "answered 502"),
        (b"HTTP/1.1 500 X\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nTrace.", 502, "answered 500"),
        (whole(b""), 502, "sent an empty answer"),
        (whole(b'{"error": {"message": "too long", "code": 400}}'), 400, "too long"),
        (whole(b'{"error": {"message": "dead"}}'), 502, "dead"),
        (HEAD % (b"application/json", 9, b""), 503, "is not available: ClientPayloadError"),
    ],
)
async def test_broken_answers(answer: bytes, status: int, text: str) -> None:
    async with bytes_server(answer) as url, front_serving(config_of(url)) as gateway:
        found = await gateway.complete()
    assert found.status == status
    assert text in found.error[1]


async def test_nobody_behind() -> None:
    async with front_serving(config_of(NOBODY)) as gateway:
        found = await gateway.complete()
    assert (found.status, found.headers["Retry-After"]) == (503, "1")


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b""])
async def test_a_stream_that_breaks_off_says_so(end: bytes) -> None:
    async with bytes_server(CHUNKED + chunk(EVENT) + end) as url, front_serving(config_of(url)) as gateway:
        found = await gateway.complete(STREAMED)
    assert found.status == 200
    assert found.body.startswith(EVENT)
    last = json.loads(found.body[len(EVENT) :].strip().removeprefix(b"data: "))
    assert last["error"]["message"] == "the server behind the gateway ended its answer early"


async def test_an_answer_that_breaks_off_has_no_end() -> None:
    sent = HEAD % (b"application/json", 99, b'{"choices":')
    async with bytes_server(sent) as url, front_serving(config_of(url)) as gateway:
        with pytest.raises(aiohttp.ClientPayloadError):
            await gateway.complete()


async def test_a_stalled_server() -> None:
    async with bytes_server(b"", then_hang=True) as url:
        upstreams = [{"url": url, "timeout_s": 0.05}]
        async with front_serving(config_of(upstreams=upstreams)) as gateway:
            assert (await gateway.complete()).error == (503, "the server behind the gateway did not answer in time")


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_a_client_that_leaves_stops_vllm(vllm: VllmServer, is_streamed: bool) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        if is_streamed:
            response = await event_stream(request)
            while True:
                await send_event(response, {"choices": []})
                await asyncio.sleep(0.01)
        await asyncio.sleep(60)
        return web.Response()

    vllm.misbehave = endless
    async with front_serving(config_of(vllm.url)) as gateway:
        asking = asyncio.create_task(gateway.complete(STREAMED))
        await asyncio.wait_for(vllm.started.wait(), PATIENCE_S)
        asking.cancel()
        await asyncio.wait_for(vllm.cancelled.wait(), PATIENCE_S)
        for server in gateway.pool.connections.servers.all:
            assert server.outstanding == 0


async def test_a_slow_reader_stops_only_its_own_stream() -> None:
    written = 0

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal written
        body = await request.json()
        response = await event_stream(request)
        for _ in range(1 if body["prompt"] == "short" else 100_000):
            await response.write(b"data: " + b"x" * 10_000 + b"\n\n")
            written += 10_008
        await response.write(b"data: [DONE]\n\n")
        return response

    async with answering(flood) as url, front_serving(config_of(url)) as gateway:
        async with gateway.session.post(gateway.url + "/v1/completions", json=STREAMED):
            seen = -1
            while seen != written:
                seen = written
                await asyncio.sleep(0.2)
            assert seen < 100_000_000
            others = await asyncio.gather(*(gateway.complete(STREAMED | {"prompt": "short"}) for _ in range(5)))
            assert [other.status for other in others] == [200] * 5


async def test_a_reader_that_takes_nothing_is_cut_off() -> None:
    closed = asyncio.Event()

    async def flood(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        try:
            while True:
                await response.write(b"data: " + b"x" * 10_000 + b"\n\n")
        finally:
            closed.set()

    async with answering(flood) as url, front_serving(config_of(url, limits={"write_timeout_s": 0.5})) as gateway:
        async with gateway.session.post(gateway.url + "/v1/completions", json=STREAMED):
            await asyncio.wait_for(closed.wait(), 30)


async def test_the_models_of_every_group_of_servers() -> None:
    def models(name: str) -> Any:
        async def answer(_: web.Request) -> web.Response:
            return web.json_response({"object": "list", "data": [{"id": name}]})

        return answer

    async with answering(models("phi-2")) as first, answering(models("llama")) as second:
        upstreams = [{"url": first, "models": ["phi-2"]}, {"url": second, "models": ["llama"]}]
        async with front_serving(config_of(upstreams=upstreams)) as gateway:
            found = await gateway.ask("GET", "/v1/models")
            llama = await gateway.complete({"model": "llama"})
    assert found.json == {"object": "list", "data": [{"id": "llama"}, {"id": "phi-2"}]}
    assert llama.json["data"] == [{"id": "llama"}]


async def test_the_api_is_shown(vllm: VllmServer) -> None:
    async with front_serving(config_of(vllm.url)) as gateway:
        assert b"swagger" in (await gateway.ask("GET", "/docs")).body
        paths = (await gateway.ask("GET", "/openapi.json")).json["paths"]
    assert {"/v1/completions", "/v1/chat/completions", "/v1/models", "/v2/models/{model}/infer"} <= set(paths)
    refusals = paths["/v1/completions"]["post"]["responses"]
    assert {"401", "413", "429", "503"} <= set(refusals)


async def test_a_side_that_is_switched_off(vllm: VllmServer) -> None:
    async def status(gateway: Front) -> int:
        return (await gateway.ask("GET", "/v1/models")).status

    async with front_serving(config_of(vllm.url, openai={"is_enabled": False})) as gateway:
        assert await status(gateway) == 404


async def test_a_long_prompt() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"read": len(await request.read())})

    body = json.dumps({"model": "phi-2", "prompt": "x" * 5_000_000}).encode()
    async with answering(answer) as url, front_serving(config_of(url)) as gateway:
        asked = gateway.ask("POST", "/v1/completions", data=io.BytesIO(body), headers=JSON)
        assert (await asked).json == {"read": len(body)}
