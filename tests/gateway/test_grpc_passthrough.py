"""Models that stay on Triton: bytes there, bytes back, statuses kept, and streams for both kinds of models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from .conftest import VllmServer
from .grpc_serving import Stub, config_of, finished, free_port, infer, said, serving, streamed, stub_of, tensor, text

# Field 99, which no message has, and an output of the kept model: re-encoding would show.
UNKNOWN_FIELD = b"\x9a\x06\x02hi"
RANKED = pb.ModelInferResponse(model_name="ranker").SerializeToString() + UNKNOWN_FIELD


@dataclass
class Triton(grpc.GenericRpcHandler):
    """Answers every unary call with `answers[call]` and every request of a stream with one response."""

    answers: dict[str, bytes] = field(default_factory=dict)
    received: list[tuple[str, bytes]] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    stream_has_ended: asyncio.Event = field(default_factory=asyncio.Event)

    def service(self, details: Any) -> Any:
        name = details.method.rpartition("/")[2]
        if name == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(self._stream)

        async def answer(data: bytes, context: Any) -> bytes:
            self.received.append((name, data))
            self.metadata |= dict(context.invocation_metadata())
            if name not in self.answers:
                await context.abort(grpc.StatusCode.DATA_LOSS, "as Triton says")
            return self.answers[name]

        return grpc.unary_unary_rpc_method_handler(answer)

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> None:
        try:
            async for data in requests:
                message = pb.ModelInferRequest.FromString(data)
                self.received.append(("ModelStreamInfer", data))
                if message.id == "broken":
                    await context.abort(grpc.StatusCode.DATA_LOSS, "as Triton says")
                await context.write(pb.ModelStreamInferResponse(error_message=f"for {message.id}").SerializeToString())
        finally:
            self.stream_has_ended.set()


@dataclass(frozen=True)
class Both:
    gateway: Stub
    triton: Triton


@asynccontextmanager
async def in_front_of(triton: Triton | None, url: str) -> AsyncIterator[Stub]:
    port = free_port()
    server = grpc.aio.server(handlers=(triton,) if triton else ())
    if triton:
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
    config = config_of(url, passthrough={"url": "http://127.0.0.1:9", "grpc": f"127.0.0.1:{port}"})
    async with serving(config) as address, stub_of(address) as stub:
        yield stub
    await server.stop(None)


@pytest.fixture
async def both(vllm: VllmServer) -> AsyncIterator[Both]:
    triton = Triton()
    async with in_front_of(triton, vllm.url) as gateway:
        yield Both(gateway, triton)


def ranked(request_id: str = "") -> Any:
    return infer("ranker", [tensor("features", "FP32", [1, 4])], [b"\0" * 16], id=request_id)


async def test_triton_that_is_not_there(vllm: VllmServer) -> None:
    async with in_front_of(None, vllm.url) as gateway:
        assert (await gateway.ask("ModelInfer", ranked())).code == "UNAVAILABLE"
        assert (await gateway.stream([ranked()]))[1] == "UNAVAILABLE"
        assert (await gateway.ask("ModelInfer", infer())).code == "OK"
        index = (await gateway.ask("RepositoryIndex", pb.RepositoryIndexRequest())).answer.models
        assert [row.name for row in index] == ["phi2", "phi2_stream"]


async def test_tritons_status(both: Both) -> None:
    asked = await both.gateway.ask("ModelInfer", ranked())
    assert (asked.code, asked.details) == ("DATA_LOSS", "as Triton says")
    call = both.gateway.stub.ModelStreamInfer(iter([ranked("broken")]), timeout=5)
    assert await finished(call) == ([], "DATA_LOSS", "as Triton says")


async def test_a_call_that_is_cancelled(both: Both) -> None:
    call = both.gateway.stub.ModelStreamInfer(timeout=5)
    await call.write(ranked("1"))
    assert said(await call.read())[1] == "for 1"
    assert not both.triton.stream_has_ended.is_set()
    call.cancel()
    await asyncio.wait_for(both.triton.stream_has_ended.wait(), 5)


async def test_bytes_there_and_back(both: Both) -> None:
    both.triton.answers["ModelInfer"] = RANKED
    data = ranked("5").SerializeToString() + UNKNOWN_FIELD
    assert await both.gateway.raw("/inference.GRPCInferenceService/ModelInfer", data) == ("OK", RANKED)
    assert both.triton.received == [("ModelInfer", data)]


async def test_metadata_go_along(both: Both) -> None:
    both.triton.answers["ModelInfer"] = RANKED
    await both.gateway.ask("ModelInfer", ranked(), metadata=(("authorization", "Bearer x"), ("x-request-id", "r-1")))
    assert (both.triton.metadata["authorization"], both.triton.metadata["x-request-id"]) == ("Bearer x", "r-1")


@pytest.mark.parametrize(
    ("call", "request_", "answer"),
    [
        ("ModelReady", pb.ModelReadyRequest(name="ranker"), pb.ModelReadyResponse(ready=True)),
        ("ModelMetadata", pb.ModelMetadataRequest(name="ranker"), pb.ModelMetadataResponse(platform="p")),
        ("ModelConfig", pb.ModelConfigRequest(name="ranker"), pb.ModelConfigResponse()),
        ("ModelStatistics", pb.ModelStatisticsRequest(name="ranker"), pb.ModelStatisticsResponse()),
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="ranker"), pb.RepositoryModelLoadResponse()),
        ("TraceSetting", pb.TraceSettingRequest(model_name="ranker"), pb.TraceSettingResponse()),
    ],
)
async def test_calls_about_a_kept_model(both: Both, call: str, request_: Any, answer: Any) -> None:
    both.triton.answers[call] = answer.SerializeToString()
    assert (await both.gateway.ask(call, request_)).answer == answer
    assert both.triton.received == [(call, request_.SerializeToString())]


async def test_a_model_that_moved_is_not_passed_through_once_unloaded(both: Both) -> None:
    await both.gateway.ask("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="phi2"))
    assert (await both.gateway.ask("ModelInfer", infer())).code == "NOT_FOUND"
    assert both.triton.received == []


async def test_the_index_has_the_models_of_both(both: Both) -> None:
    rows = [{"name": name, "state": "READY"} for name in ("ranker", "phi2", "a")]
    there = pb.RepositoryIndexResponse(models=[pb.RepositoryIndexResponse.ModelIndex(**row) for row in rows])
    both.triton.answers["RepositoryIndex"] = there.SerializeToString()
    index = (await both.gateway.ask("RepositoryIndex", pb.RepositoryIndexRequest())).answer.models
    assert [(row.name, row.version) for row in index] == [
        ("a", ""),
        ("phi2", "1"),
        ("phi2_stream", "1"),
        ("ranker", ""),
    ]


async def test_one_stream_for_both(both: Both) -> None:
    inputs, raw = [tensor("text_input")], [text(b"x")]
    requests = [ranked("1"), streamed("2", 1), ranked("3"), infer("phi2", inputs, raw, id="4")]
    responses, code, _ = await both.gateway.stream(requests)
    assert code == "OK"
    assert sorted(said(response) for response in responses) == [
        ("", "for 1"),
        ("", "for 3"),
        ("2", " one"),
        ("4", " one two three"),
    ]
