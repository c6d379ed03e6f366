"""The core: failures first, then what it counts, and that closing a request stops vLLM's work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from aiohttp import web

from migrate.gateway.core.engine import Engine
from migrate.gateway.core.inference import InferRequest
from migrate.gateway.core.models import Registry
from migrate.gateway.core.tensors import RawTensor, Tensor
from migrate.gateway.errors import Code, ModelError, NotOneResponse, TritonError
from migrate.gateway.vllm.upstreams import Upstreams

from .conftest import VllmServer, client_of, config_for, event_stream, send_event
from .every_style import config_of_every_style

STREAMED = (Tensor("text_input", "BYTES", (1,), [b"zero"]), Tensor("stream", "BOOL", (1,), [True]))


@pytest.fixture
async def registry(vllm: VllmServer) -> Registry:
    return Registry(config_of_every_style(vllm.url))


@pytest.fixture
async def engine(vllm: VllmServer, registry: Registry) -> AsyncIterator[Engine]:
    async with Upstreams(config_of_every_style(vllm.url)) as pool:
        yield Engine(registry, pool)


@pytest.mark.parametrize("shape", [(-1,), (0,), (2,), (1, 1)])
async def test_a_shape_that_no_json_can_have(engine: Engine, shape: tuple[int, ...]) -> None:
    with pytest.raises(TritonError, match=r"(unexpected shape|should be specified) for input 'text_input' for model"):
        await engine.single(InferRequest("phi2", inputs=(RawTensor("text_input", "BYTES", shape, b""),)))


async def test_faults_of_form_come_before_those_of_content(engine: Engine) -> None:
    inputs = (RawTensor("text_input", "FP32", (1,), b"not four bytes"), Tensor("max_tokens", "INT32", (1,), [1, 2]))
    with pytest.raises(TritonError, match="data-type is 'FP32'"):
        await engine.single(InferRequest("phi2", inputs=inputs))
    with pytest.raises(TritonError, match="Expected 4, got 8"):
        await engine.single(InferRequest("phi2", inputs=(STREAMED[0], inputs[1])))


async def test_none_or_several_responses_are_not_one(engine: Engine) -> None:
    with pytest.raises(NotOneResponse):
        await engine.single(InferRequest("phi2_stream", inputs=STREAMED))


async def test_an_error_in_mid_stream(engine: Engine, registry: Registry, vllm: VllmServer) -> None:
    async def fail(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        await send_event(response, {"choices": [{"text": " one", "finish_reason": None}]})
        await send_event(response, {"error": {"message": "out of memory", "code": 500}})
        return response

    vllm.misbehave = fail
    async with aclosing(engine.infer(InferRequest("phi2_stream", inputs=STREAMED))) as responses:
        assert (await anext(responses)).outputs[0].values == [b" one"]
        with pytest.raises(ModelError, match="out of memory"):
            await anext(responses)
    assert registry.get("phi2_stream").statistics.fail.count == 1


@pytest.mark.parametrize("has_begun", [True, False])
async def test_closing_stops_the_work(engine: Engine, registry: Registry, vllm: VllmServer, has_begun: bool) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        if has_begun:
            await send_event(response, {"choices": [{"text": " one", "finish_reason": None}]})
        await asyncio.sleep(60)
        return response

    vllm.misbehave = hang
    responses = engine.infer(InferRequest("phi2_stream", inputs=STREAMED))
    first = asyncio.ensure_future(anext(responses))
    await asyncio.wait_for(vllm.started.wait(), 5)
    if has_begun:
        await first
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await responses.aclose()
    await asyncio.wait_for(vllm.cancelled.wait(), 5)
    assert registry.get("phi2_stream").statistics.fail.count == 1


async def test_a_batch_that_is_given_up_stops_all_of_it(engine: Engine, vllm: VllmServer) -> None:
    running = 0

    async def hang(_: web.Request) -> web.Response:
        nonlocal running
        running += 1
        try:
            await asyncio.sleep(60)
        finally:
            running -= 1
        raise AssertionError

    vllm.misbehave = hang
    prompts = Tensor("text_input", "BYTES", (3, 1), [b"a", b"b", b"c"])
    work = asyncio.create_task(engine.single(InferRequest("batched", inputs=(prompts,))))
    while running < 3:
        await asyncio.sleep(0.01)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    async with asyncio.timeout(5):
        while running:
            await asyncio.sleep(0.01)


async def test_a_full_server_says_when_to_come_back(vllm: VllmServer) -> None:
    async def full(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "full"}}, status=503, headers={"Retry-After": "7"})

    vllm.misbehave = full
    async with client_of(config_for(vllm.url)) as client:
        for path, body in (
            ("phi2/generate", {"text_input": "x"}),
            ("phi2_stream/generate_stream", {"text_input": "x"}),
        ):
            async with client.session.post(f"{client.url}/v2/models/{path}", json=body) as response:
                assert (response.status, response.headers["Retry-After"]) == (503, "7")


async def test_an_ensembles_answer(engine: Engine) -> None:
    inputs = (
        Tensor("text_input", "BYTES", (2, 1), [b"a", b"b"]),
        Tensor("max_tokens", "INT32", (2, 1), [2, 2]),
        Tensor("return_log_probs", "BOOL", (2, 1), [True, True]),
    )
    response = await engine.single(InferRequest("ensemble", "3", "i", {}, inputs, ("output_log_probs", "text_output")))
    assert [(tensor.name, tensor.datatype, tensor.shape) for tensor in response.outputs] == [
        ("text_output", "BYTES", (2, 1)),
        ("output_log_probs", "FP32", (2, 1, 2)),
    ]
    assert (response.model, response.version, response.id) == ("ensemble", "3", "i")


async def test_what_is_refused_before_the_model_is_not_counted(engine: Engine, registry: Registry) -> None:
    with pytest.raises(TritonError) as raised:
        await engine.single(InferRequest("phi2"))
    assert raised.value.code is Code.INVALID_ARG
    statistics = registry.get("phi2").statistics
    assert (statistics.success.count, statistics.fail.count) == (0, 0)
    await engine.single(InferRequest("phi2", inputs=STREAMED[:1]))
    assert (statistics.success.count, statistics.inference_count) == (1, 1)
    assert statistics.success.ns > 0
