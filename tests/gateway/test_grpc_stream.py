"""ModelStreamInfer: many requests on one stream, their errors, their ends, and clients that leave or do not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from aiohttp import web

from .conftest import VllmServer, event_stream, send_event
from .grpc_serving import Stub, config_of, finished, infer, is_final, said, serving, streamed, stub_of, tensor, text

UNKNOWN = "Request for unknown model: 'nope' is not found"
EMPTY_FINAL = {"triton_enable_empty_final_response": ("bool_param", True)}


@pytest.fixture
async def gateway(vllm: VllmServer) -> AsyncIterator[Stub]:
    async with serving(config_of(vllm.url)) as address, stub_of(address) as stub:
        yield stub


def ends_apart(url: str) -> Any:
    model = {"style": "vllm", "upstream_model": "phi-2", "ends_apart": True}
    return config_of(url, models={"phi2_stream": model})


async def stuck(request: web.Request) -> web.StreamResponse:
    """One piece, and then nothing."""
    response = await event_stream(request)
    await send_event(response, {"choices": [{"text": " one", "finish_reason": None}]})
    await asyncio.sleep(60)
    return response


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (infer("nope", id="1"), UNKNOWN),
        (streamed("1", model_version="x"), "failed to get model version from specified version string 'x' (details: "),
        (infer("phi2_stream", [tensor("foo")], id="1"), "unexpected inference input 'foo' for model 'phi2_stream'"),
        (infer("phi2_stream", None, (), id="1"), "unable to find data for input tensor 'text_input' for model"),
        (streamed("1", parameters={"triton_x": ("int64_param", 1)}), "parameter keys starting with 'triton_' are"),
        (streamed("1", outputs=["foo"]), "unexpected inference output 'foo' for model 'phi2_stream'"),
    ],
)
@pytest.mark.parametrize("metadata", [(), (("triton_grpc_error", "true"),)])
async def test_a_bad_request_leaves_the_stream_open(gateway: Stub, bad: Any, error: str, metadata: Any) -> None:
    responses, code, _ = await gateway.stream([bad, streamed("2", 1)], metadata=metadata)
    assert code == "OK"
    refused, answered = sorted(responses, key=lambda response: response.infer_response.id)
    assert said(refused)[1].startswith(error)
    assert (refused.infer_response.id, list(refused.infer_response.parameters)) == ("1", [])
    assert said(answered) == ("2", " one")


@pytest.mark.parametrize("metadata", [(), (("triton_grpc_error", "1"),), (("triton_grpc_error", "True"),)])
async def test_an_error_of_the_model_ends_its_request(gateway: Stub, vllm: VllmServer, metadata: Any) -> None:
    async def fail(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        await send_event(response, {"error": {"message": "no room", "code": 503}})
        return response

    vllm.misbehave = fail
    responses, code, _ = await gateway.stream([streamed("1"), streamed("2")], metadata=metadata)
    assert (sorted(said(response) for response in responses), code) == ([("1", "no room"), ("2", "no room")], "OK")
    assert all(is_final(response) for response in responses)
    assert {response.infer_response.model_name for response in responses} == {"phi2_stream"}


async def test_an_error_of_the_model_as_status(gateway: Stub, vllm: VllmServer) -> None:
    async def fail(request: web.Request) -> web.StreamResponse:
        if (await request.json())["max_tokens"] == 3:
            return await stuck(request)
        return web.json_response({"error": {"message": "no room"}}, status=503)

    vllm.misbehave = fail
    call = gateway.stub.ModelStreamInfer(timeout=5, metadata=(("triton_grpc_error", "true"),))
    await call.write(streamed("1", 3))
    assert said(await call.read()) == ("1", " one")
    await call.write(streamed("2", 2))
    assert await finished(call) == ([], "UNAVAILABLE", "no room")
    await asyncio.wait_for(vllm.cancelled.wait(), 5)


async def test_bytes_that_are_no_request_end_the_stream(gateway: Stub) -> None:
    path = "/inference.GRPCInferenceService/ModelStreamInfer"
    call: Any = gateway.channel.stream_stream(path)(iter([b"\xff\xff", streamed("2").SerializeToString()]), timeout=5)
    assert await finished(call) == ([], "OK", "")


async def test_an_error_of_the_gateway_itself(vllm: VllmServer) -> None:
    class Broken:
        async def infer(self, _: Any) -> AsyncIterator[None]:
            raise ZeroDivisionError("secret")
            yield

    async with serving(config_of(vllm.url), Broken()) as address, stub_of(address) as gateway:
        responses, code, _ = await gateway.stream([streamed("1")])
        assert [said(response) for response in responses] == [("1", "internal error of the gateway: ZeroDivisionError")]
        assert code == "OK"


async def test_no_requests(gateway: Stub) -> None:
    assert await gateway.stream([]) == ([], "OK", "")


async def test_responses_of_one_request(gateway: Stub) -> None:
    responses, code, _ = await gateway.stream([streamed("7", parameters=EMPTY_FINAL)])
    assert [(said(response)[1], is_final(response)) for response in responses] == [
        (" one", False),
        (" two", False),
        (" three", True),
    ]
    first = responses[0].infer_response
    assert (first.id, first.model_name, first.model_version, code) == ("7", "phi2_stream", "1", "OK")
    assert [(output.name, output.datatype, list(output.shape)) for output in first.outputs] == [
        ("text_output", "BYTES", [1])
    ]


@pytest.mark.parametrize("is_wanted", [False, True])
async def test_a_model_that_ends_apart(vllm: VllmServer, is_wanted: bool) -> None:
    async with serving(ends_apart(vllm.url)) as address, stub_of(address) as gateway:
        request = streamed("7", 2, parameters=EMPTY_FINAL if is_wanted else {})
        responses, _, _ = await gateway.stream([request])
    assert [is_final(response) for response in responses] == [False, False, *[True] * is_wanted]
    if is_wanted:
        last = responses[-1].infer_response
        assert (last.id, last.model_name, last.model_version, len(last.outputs)) == ("7", "phi2_stream", "", 0)


async def test_a_stream_that_breaks_off_has_an_end(gateway: Stub, vllm: VllmServer) -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        await send_event(response, {"choices": [{"text": " one", "finish_reason": None}]})
        return response

    vllm.misbehave = break_off
    responses, code, _ = await gateway.stream([streamed("1", parameters=EMPTY_FINAL)])
    assert (said(responses[0]), is_final(responses[-1]), code) == (("1", " one"), True, "OK")
    assert responses[-1].error_message


async def test_requests_run_at_once(gateway: Stub, vllm: VllmServer) -> None:
    """The second is answered while the first is still at it."""
    may_end = asyncio.Event()

    async def wait(request: web.Request) -> web.StreamResponse:
        response = await event_stream(request)
        for number in range(2):
            event = {"choices": [{"text": str(number), "finish_reason": "stop" if number else None}]}
            await send_event(response, event)
            if (await request.json())["max_tokens"] == 3:
                await may_end.wait()
        return response

    vllm.misbehave = wait
    call = gateway.stub.ModelStreamInfer(timeout=5)
    await call.write(streamed("slow", 3))
    assert said(await call.read()) == ("slow", "0")
    await call.write(streamed("quick", 2))
    assert [said(await call.read()) for _ in range(2)] == [("quick", "0"), ("quick", "1")]
    await call.done_writing()
    may_end.set()
    responses, code, _ = await finished(call)
    assert ([said(response) for response in responses], code) == ([("slow", "1")], "OK")


async def test_models_that_are_not_decoupled_keep_the_order(gateway: Stub, vllm: VllmServer) -> None:
    second_is_done = asyncio.Event()

    async def first_waits(request: web.Request) -> web.Response:
        prompt = (await request.json())["prompt"]
        if prompt == "first":
            await second_is_done.wait()
        else:
            second_is_done.set()
        return web.json_response({"choices": [{"text": f" after {prompt}", "finish_reason": "stop"}]})

    vllm.misbehave = first_waits
    requests = [infer("phi2", None, (text(prompt.encode()),), id=prompt) for prompt in ("first", "second")]
    responses, code, _ = await gateway.stream(requests)
    assert [said(response) for response in responses] == [("first", " after first"), ("second", " after second")]
    assert all(is_final(response) for response in responses)
    assert code == "OK"


async def test_the_same_id_twice(gateway: Stub) -> None:
    responses, _, _ = await gateway.stream([streamed("1", 2), streamed("1", 2)])
    assert sorted(said(response) for response in responses) == [("1", " one")] * 2 + [("1", " two")] * 2


async def test_more_requests_than_run_at_once(gateway: Stub) -> None:
    responses, code, _ = await gateway.stream([streamed(str(number), 1) for number in range(600)])
    assert ({said(response) for response in responses}, code) == ({(str(n), " one") for n in range(600)}, "OK")


@pytest.mark.parametrize("way", ["cancel", "timeout", "disconnect"])
async def test_a_client_that_leaves_stops_the_work(vllm: VllmServer, way: str) -> None:
    vllm.misbehave = stuck
    async with serving(config_of(vllm.url)) as address:
        async with grpc.aio.insecure_channel(address) as channel:
            async with stub_of(address) as gateway:
                stub = gateway.stub if way == "disconnect" else Stub(type(gateway.stub)(channel), channel).stub
                call = stub.ModelStreamInfer(iter([streamed("1")]), timeout=0.3 if way == "timeout" else 5)
                assert said(await call.read()) == ("1", " one")
                if way == "cancel":
                    call.cancel()
                if way == "timeout":
                    assert (await finished(call))[1] == "DEADLINE_EXCEEDED"
        await asyncio.wait_for(vllm.cancelled.wait(), 5)


async def test_a_unary_call_that_is_cancelled_stops_the_work(gateway: Stub, vllm: VllmServer) -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        raise AssertionError

    vllm.misbehave = hang
    call = gateway.stub.ModelInfer(infer(), timeout=5)
    waiting = asyncio.ensure_future(call)
    await asyncio.wait_for(vllm.started.wait(), 5)
    call.cancel()
    await asyncio.wait_for(vllm.cancelled.wait(), 5)
    with suppress(asyncio.CancelledError):
        await waiting


def endless(piece: str) -> Any:
    async def answer(request: web.Request) -> web.StreamResponse:
        if (await request.json())["max_tokens"] == 1:
            return web.json_response({"choices": [{"text": " one", "finish_reason": "stop"}]})
        response = await event_stream(request)
        while True:
            await send_event(response, {"choices": [{"text": piece, "finish_reason": None}]})

    return answer


async def test_a_client_that_does_not_read_holds_up_nobody(gateway: Stub, vllm: VllmServer) -> None:
    vllm.misbehave = endless("x" * 65536)
    call = gateway.stub.ModelStreamInfer(iter([streamed("1", 3)]))
    assert said(await call.read())[0] == "1"
    inputs = [tensor("text_input"), tensor("max_tokens", "INT32")]
    for _ in range(20):
        asked = await gateway.ask("ModelInfer", infer("phi2", inputs, (text(b"x"), b"\1\0\0\0")))
        assert asked.code == "OK"
    call.cancel()
    await asyncio.wait_for(vllm.cancelled.wait(), 5)


async def test_a_client_that_never_reads_is_cut_off(vllm: VllmServer) -> None:
    vllm.misbehave = endless("x" * 65536)
    config = config_of(vllm.url, limits={"write_timeout_s": 0.2})
    async with serving(config) as address, stub_of(address) as gateway:
        call = gateway.stub.ModelStreamInfer(iter([streamed("1", 3)]))
        assert said(await call.read())[0] == "1"
        await asyncio.wait_for(vllm.cancelled.wait(), 5)
        assert (await finished(call))[1:] == ("DEADLINE_EXCEEDED", "the client did not read its responses")
