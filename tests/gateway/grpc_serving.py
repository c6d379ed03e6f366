"""The gateway's gRPC side on a real port in front of the stand-in for vLLM, and requests made of raw messages."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from migrate.gateway.config import GatewayConfig
from migrate.gateway.core.engine import Engine
from migrate.gateway.core.models import Registry
from migrate.gateway.rpc.server import serve_grpc
from migrate.gateway.vllm.upstreams import Upstreams

TEXTS = {"text_input": b"once upon"}


def config_of(url: str, **more: Any) -> GatewayConfig:
    """Two models, `phi2` with one response and `phi2_stream`, decoupled, and a free port for gRPC."""
    models = {
        "phi2": {"style": "python", "upstream_model": "phi-2"},
        "phi2_stream": {"style": "vllm", "upstream_model": "phi-2"},
    }
    written = {"grpc": {"port": free_port()}, "upstream": {"url": url, "timeout_s": 5.0}, "models": models}
    return GatewayConfig.model_validate(written | more)


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


@asynccontextmanager
async def serving(config: GatewayConfig, engine: Any = None) -> AsyncIterator[str]:
    """HOST:PORT of a gateway; `engine` takes the place of its own."""
    assert config.grpc is not None
    async with Upstreams(config) as pool:
        registry = Registry(config)
        server = await serve_grpc(engine or Engine(registry, pool), registry, config, pool.answers)
        try:
            yield f"{config.grpc.host}:{config.grpc.port}"
        finally:
            await server.stop(None)


@dataclass(frozen=True)
class Asked:
    """What came back: a message or a status with its text, and the metadata at the end."""

    answer: Any
    code: str
    details: str
    trailing: dict[str, str]


@dataclass(frozen=True)
class Stub:
    """Calls by name."""

    stub: Any
    channel: grpc.aio.Channel

    async def ask(self, call: str, request: Any, **options: Any) -> Asked:
        """One unary call, 5 seconds at most."""
        calling = getattr(self.stub, call)(request, timeout=5, **options)
        try:
            answer = await calling
        except grpc.aio.AioRpcError as error:
            return Asked(None, error.code().name, error.details() or "", dict(error.trailing_metadata() or ()))
        return Asked(answer, "OK", "", dict(await calling.trailing_metadata()))

    async def stream(self, requests: Iterable[Any], **options: Any) -> tuple[list[Any], str, str]:
        """The responses to a stream whose client half-closes at once, its code and details."""
        return await finished(self.stub.ModelStreamInfer(iter(requests), timeout=5, **options))

    async def raw(self, path: str, data: bytes) -> tuple[str, Any]:
        """Bytes sent to a path: the code, and the answer's bytes or the details."""
        calling: Any = self.channel.unary_unary(path)
        try:
            return "OK", await calling(data, timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details()


async def finished(call: Any) -> tuple[list[Any], str, str]:
    """What a stream gives until it ends, its code and details."""
    found: list[Any] = []
    try:
        while (response := await call.read()) is not grpc.aio.EOF:
            found.append(response)
    except grpc.aio.AioRpcError as error:
        return found, error.code().name, error.details() or ""
    return found, (await call.code()).name, await call.details() or ""


@asynccontextmanager
async def stub_of(address: str) -> AsyncIterator[Stub]:
    """A client of its own connection."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield Stub(service_pb2_grpc.GRPCInferenceServiceStub(channel), channel)


def tensor(name: str, datatype: str = "BYTES", shape: Sequence[int] = (1,), **contents: Any) -> Any:
    """An input; `contents` are typed."""
    made = pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    if contents:
        made.contents.CopyFrom(pb.InferTensorContents(**contents))
    return made


def text(*words: bytes) -> bytes:
    """BYTES in binary form."""
    return b"".join(struct.pack("<I", len(word)) + word for word in words)


def infer(
    model: str = "phi2", inputs: Sequence[Any] | None = None, raw: Sequence[bytes] | None = None, **more: Any
) -> Any:
    """A ModelInferRequest, good as it stands: `text_input` in binary form."""
    raw = (text(b"once upon"),) if raw is None else raw
    parameters = more.pop("parameters", {})
    outputs = [pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in more.pop("outputs", ())]
    inputs = [tensor("text_input")] if inputs is None else inputs
    made = pb.ModelInferRequest(model_name=model, inputs=inputs, raw_input_contents=raw, outputs=outputs, **more)
    for name, (field, value) in parameters.items():
        setattr(made.parameters[name], field, value)
    return made


def streamed(request_id: str = "", words: int = 3, **more: Any) -> Any:
    """A request to `phi2_stream` for its `words` pieces, one response each."""
    inputs = [tensor("text_input"), tensor("stream", "BOOL"), tensor("sampling_parameters")]
    raw = [text(b"once upon"), b"\1", text(b'{"max_tokens": %d}' % words)]
    return infer("phi2_stream", inputs, raw, id=request_id, **more)


def said(response: Any) -> tuple[str, str]:
    """The id of a response in a stream, and its text or error."""
    if response.error_message:
        return response.infer_response.id, response.error_message
    raw = response.infer_response.raw_output_contents
    return response.infer_response.id, raw[0][4:].decode() if raw else ""


def is_final(response: Any) -> bool:
    """Whether it is marked as the last of its request."""
    return bool(response.infer_response.parameters["triton_final_response"].bool_param)
