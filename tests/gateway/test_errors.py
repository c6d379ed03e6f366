"""Refusals: statuses and texts as a Triton 2.51 server gave them to the same requests."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from .conftest import Client, VllmServer, client_of, config_for, event_stream, send_event

NO_INPUT = (
    "[request id: <id_unknown>] expected number of inputs between 1 and 4 but got 0 inputs for model 'phi2'."
    " Got input(s) [], but missing required input(s) ['text_input']. Please provide all required input(s)."
)


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/", 404, "Not Found"),
        ("GET", "/v2/health/zzz", 404, "Not Found"),
        ("POST", "/v2/models/phi2/generate/", 404, "Not Found"),
        ("POST", "/v2/models/phi2/versions/x/generate", 404, "Not Found"),
        ("GET", "/v2/models/phi2/generate", 405, "Method Not Allowed"),
        ("PUT", "/v2/models/phi2/generate_stream", 405, "Method Not Allowed"),
        ("POST", "/v2/health/ready", 405, "Method Not Allowed"),
        ("POST", "/v2/models/none/generate", 404, "Request for unknown model: 'none' is not found"),
        ("POST", "/v2/models/none/generate_stream", 404, "Request for unknown model: 'none' is not found"),
        (
            "POST",
            "/v2/models/phi2/versions/2/generate",
            404,
            "Request for unknown model: 'phi2' version 2 is not found",
        ),
    ],
)
async def test_paths(client: Client, method: str, path: str, status: int, text: str) -> None:
    assert await client.ask(method, path, data='{"text_input":"x"}' if method != "GET" else None) == (
        status,
        {"error": text},
    )


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ("", 500, "failed to parse the request JSON buffer: The document is empty. at 0"),
        ("{", 500, "failed to parse the request JSON buffer: "),
        ('{"text_input":"x"} more', 500, "failed to parse the request JSON buffer: "),
        ('{"text_input":"\\ud800"}', 500, "failed to parse the request JSON buffer: "),
        (b'{"text_input":"\xff"}', 500, "failed to parse the request JSON buffer: "),
        ("[" * 100_000, 500, "failed to parse the request JSON buffer: "),
        ("[1]", 500, "attempt to get members for non-object"),
        ("{}", 400, NO_INPUT),
        ('{"id":7,"text_input":"x"}', 500, "Unable to parse 'id': attempt to access JSON non-string as string"),
        ('{"text_input":5}', 500, "Unable to parse JSON bytes array: attempt to access JSON non-string as string"),
        ('{"text_input":["x","y"]}', 400, "The schema can not convert input 'text_input' to tensor with proper shape"),
        (
            '{"text_input":"x","text_input":"y"}',
            400,
            "[request id: <id_unknown>] input 'text_input' already exists in request",
        ),
        (
            '{"text_input":"x","max_tokens":2,"parameters":{"max_tokens":3}}',
            400,
            "Converting keyword: 'parameters': [request id: <id_unknown>] input 'max_tokens' already exists in request",
        ),
        (
            '{"text_input":"x","max_tokens":"3"}',
            500,
            "Unable to parse 'data': attempt to access JSON non-signed-integer as signed-integer",
        ),
        ('{"text_input":"x","max_tokens":true}', 500, "Unable to parse 'data': attempt to access JSON non-signed"),
        (
            '{"text_input":"x","temperature":"1"}',
            500,
            "Unable to parse 'data': attempt to access JSON non-number as double",
        ),
        (
            '{"text_input":"x","return_log_probs":1}',
            500,
            "Unable to parse 'data': attempt to access JSON non-boolean as boolean",
        ),
        (
            '{"text_input":"x","parameters":5}',
            500,
            "Expected JSON object for keyword: 'parameters': attempt to access JSON non-object as object",
        ),
        (
            '{"text_input":"x","parameters":{"foo":[1]}}',
            400,
            "Converting keyword: 'parameters': parameter 'foo' has invalid type. It should be either 'int', 'bool', or"
            " 'string'.",
        ),
        ('{"text_input":"x","max_tokens":0}', 400, "max_tokens must be at least 1, got 0"),
        ('{"text_input":"x","max_tokens":99999999999}', 400, "the value of input 'max_tokens' is out of range"),
        ('{"text_input":"x","temperature":NaN}', 400, "the value of input 'temperature' is out of range"),
        ('{"text_input":""}', 400, "text_input is empty"),
        ('{"text_input":"x","top_k":3}', 400, "request parameter 'top_k' cannot be mapped to vLLM"),
    ],
)
async def test_bodies(client: Client, vllm: VllmServer, body: str | bytes, status: int, text: str) -> None:
    found_status, answer = await client.generate("phi2", body)
    assert found_status == status
    assert answer["error"].startswith(text)
    assert vllm.bodies == []


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"sampling_parameters": {"temperature": 0}}, 500, "Unable to parse JSON bytes array"),
        ({"sampling_parameters": "{"}, 400, "sampling_parameters is not JSON"),
        ({"sampling_parameters": "[]"}, 400, "sampling_parameters must be a JSON object"),
        ({"sampling_parameters": '{"temprature": 0}'}, 400, "sampling parameter 'temprature' is not known"),
        ({"sampling_parameters": '{"max_tokens": "many"}'}, 400, "sampling parameter 'max_tokens' must be int"),
        ({"sampling_parameters": '{"ignore_eos": "yes"}'}, 400, "sampling parameter 'ignore_eos' must be bool"),
        ({"sampling_parameters": '{"n": 2}'}, 501, "sampling parameter 'n' = 2 is not supported"),
        ({"sampling_parameters": '{"best_of": 3}'}, 501, "sampling parameter 'best_of'"),
        ({"parameters": {"lora_name": "x"}}, 501, "sampling parameter 'lora_name'"),
        ({"sampling_parameters": "{}", "temperature": 0}, 400, "request parameter 'temperature' and input"),
        ({"return_logprobs": True}, 501, "input 'return_logprobs'"),
    ],
)
async def test_sampling_parameters_that_cannot_be_mapped(
    client: Client, vllm: VllmServer, body: dict[str, Any], status: int, text: str
) -> None:
    found_status, answer = await client.generate("phi2_stream", {"text_input": "x"} | body)
    assert (found_status, answer["error"][: len(text)]) == (status, text)
    assert vllm.bodies == []


async def test_content_encoding(client: Client) -> None:
    answer = await client.ask(
        "POST", "/v2/models/phi2/generate", data=b"{}", headers={"Content-Encoding": "br"}, skip_auto_headers=["x"]
    )
    assert answer == (400, {"error": "Unsupported content-encoding, only 'identity' is supported."})


async def test_streaming_with_the_prompt_is_an_error_of_the_model(client: Client) -> None:
    body = {"text_input": "x", "stream": True, "exclude_input_in_output": False}
    error = {"error": "When streaming, `exclude_input_in_output` = False is not allowed."}
    assert await client.stream("phi2_stream", body) == (400, "text/event-stream; charset=utf-8", [error])
    assert await client.generate("phi2_stream", body) == (400, error)


async def test_generate_wants_one_response(client: Client) -> None:
    """Status 200, as Triton: its first response has begun the answer when the second one comes."""
    status, answer = await client.generate("phi2_stream", {"text_input": "x", "stream": True})
    assert status == 200
    assert answer["error"].startswith("generate expects model to produce exactly 1 response")


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, 400), (422, 400), (401, 500), (404, 404), (429, 503), (503, 503), (500, 500), (502, 503)],
)
async def test_statuses_of_vllm(client: Client, vllm: VllmServer, status: int, expected: int) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "too long", "type": "x", "code": status}}, status=status)

    vllm.misbehave = refuse
    found, answer = await client.generate("phi2", {"text_input": "x"})
    assert found == expected
    assert isinstance(answer["error"], str)
    if status not in (401, 404):
        assert answer["error"] == "too long"


@pytest.mark.parametrize("body", ["<html>", "[]", '{"choices":[]}', '{"choices":[{}]}', ""])
async def test_nonsense_of_vllm(client: Client, vllm: VllmServer, body: str) -> None:
    async def nonsense(_: web.Request) -> web.Response:
        return web.Response(text=body)

    vllm.misbehave = nonsense
    status, answer = await client.generate("phi2", {"text_input": "x"})
    assert status == 500
    assert answer["error"].startswith("the server behind the gateway ")


async def test_vllm_that_is_not_there() -> None:
    async with client_of(config_for("http://127.0.0.1:9")) as client:
        status, answer = await client.generate("phi2", {"text_input": "x"})
        assert status == 503
        assert answer["error"].startswith("the server behind the gateway is not available")
        assert (await client.stream("phi2_stream", {"text_input": "x", "stream": True}))[0] == 503
        assert await client.ask("GET", "/v2/health/ready") == (400, None)
        assert await client.ask("GET", "/v2/health/live") == (200, None)


async def test_vllm_that_hangs(vllm: VllmServer) -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        raise AssertionError

    vllm.misbehave = hang
    async with client_of(config_for(vllm.url, timeout_s=0.2)) as client:
        expected = (503, {"error": "the server behind the gateway did not answer in time"})
        assert await client.generate("phi2", {"text_input": "x"}) == expected


async def test_vllm_with_a_dead_engine_is_not_ready(client: Client, vllm: VllmServer) -> None:
    vllm.is_healthy = False
    assert await client.ask("GET", "/v2/health/ready") == (400, None)


@pytest.mark.parametrize("way", ["close", "end", "error"])
async def test_a_failure_in_mid_stream_is_the_last_event(client: Client, vllm: VllmServer, way: str) -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        await send_event(response, {"choices": [{"text": " one", "finish_reason": None}]})
        await asyncio.sleep(0.05)
        if way == "close":
            assert request.transport is not None
            request.transport.abort()
        if way == "error":
            await send_event(response, {"error": {"message": "out of memory", "code": 500}})
        return response

    vllm.misbehave = break_off
    status, _, events = await client.stream("phi2_stream", {"text_input": "x", "stream": True})
    assert status == 200
    assert events[0]["text_output"] == " one"
    assert len(events) == 2
    assert isinstance(events[1]["error"], str)


async def test_an_error_before_the_first_piece_sets_the_status(client: Client, vllm: VllmServer) -> None:
    async def fail(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        await send_event(response, {"error": {"message": "no room", "code": 503}})
        return response

    vllm.misbehave = fail
    status, _, events = await client.stream("phi2_stream", {"text_input": "x", "stream": True})
    assert (status, events) == (503, [{"error": "no room"}])


@pytest.mark.parametrize("path", ["phi2/generate", "phi2_stream/generate_stream"])
@pytest.mark.parametrize("has_begun", [False, True])
async def test_a_client_that_leaves_stops_the_work(
    client: Client, vllm: VllmServer, path: str, has_begun: bool
) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        if has_begun:
            await send_event(response, {"choices": [{"text": " one", "finish_reason": None}]})
        await asyncio.sleep(60)
        return response

    vllm.misbehave = hang
    reader, writer = await asyncio.open_connection(*client.url.removeprefix("http://").split(":"))
    body = json.dumps({"text_input": "x"} | ({"stream": True} if "stream" in path else {})).encode()
    writer.write(b"POST /v2/models/%b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body)))
    writer.write(body)
    await asyncio.wait_for(vllm.started.wait(), 5)
    if has_begun and "stream" in path:
        await reader.readuntil(b"data:")
    writer.close()
    await asyncio.wait_for(vllm.cancelled.wait(), 5)


async def test_a_client_that_leaves_does_no_harm_to_others(client: Client, vllm: VllmServer) -> None:
    with pytest.raises((TimeoutError, aiohttp.ClientError)):
        await client.ask("POST", "/v2/models/phi2/generate", data="{", timeout=aiohttp.ClientTimeout(total=0.00001))
    assert (await client.generate("phi2", {"text_input": "x"}))[0] == 200
