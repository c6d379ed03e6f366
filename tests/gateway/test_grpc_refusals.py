"""ModelInfer's refusals: codes and texts as a Triton 2.51 server gave them to the same messages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from tritonclient.grpc import service_pb2 as pb

from .conftest import VllmServer
from .grpc_serving import Stub, config_of, infer, serving, streamed, stub_of, tensor, text

RESERVED = (
    "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting with"
    " 'triton_' are allowed: triton_enable_empty_final_response"
)
BAD_VERSION = "failed to get model version from specified version string '{}' (details: stol), version should be an"
DECOUPLED = "ModelInfer RPC doesn't support models with decoupled transaction policy"


@pytest.fixture
async def gateway(vllm: VllmServer) -> AsyncIterator[Stub]:
    async with serving(config_of(vllm.url)) as address, stub_of(address) as stub:
        yield stub


def with_parameters(message: Any, place: str, **parameters: Any) -> Any:
    """The message with parameters (field and value) of its first input or output."""
    for name, (field, value) in parameters.items():
        setattr(getattr(message, place)[0].parameters[name], field, value)
    return message


def shared(place: str, **parameters: Any) -> Any:
    names = {f"shared_memory_{name}": value for name, value in parameters.items()}
    return with_parameters(infer(outputs=["text_output"]), place, **names)


def max_tokens(datatype: str, **contents: Any) -> Any:
    inputs = [tensor("text_input", bytes_contents=[b"x"]), tensor("max_tokens", datatype, **contents)]
    return infer("phi2", inputs, ())


def strings(raw: bytes) -> Any:
    return infer("phi2", None, (raw,))


@pytest.mark.parametrize(
    ("message", "code", "start"),
    [
        (infer("nope"), "NOT_FOUND", "Request for unknown model: 'nope' is not found"),
        (infer(""), "NOT_FOUND", "Request for unknown model: '' is not found"),
        (infer(model_version="2"), "NOT_FOUND", "Request for unknown model: 'phi2' version 2 is not found"),
        (infer(model_version="0"), "NOT_FOUND", "Request for unknown model: 'phi2' version 0 is not found"),
        (infer(model_version="x"), "INVALID_ARGUMENT", BAD_VERSION.format("x")),
        (infer("nope", model_version="x"), "INVALID_ARGUMENT", BAD_VERSION.format("x")),
        (infer(model_version="9" * 23), "INVALID_ARGUMENT", BAD_VERSION.format("9" * 23)),
        (infer(model_version="-1"), "INVALID_ARGUMENT", "invalid model version specified '-1' , version should be an"),
        (infer(model_version=" 01x"), "OK", ""),
        (streamed(), "UNIMPLEMENTED", DECOUPLED),
        (streamed(model_version="2"), "NOT_FOUND", "Request for unknown model: 'phi2_stream' version 2 is not found"),
        (streamed(parameters={"triton_x": ("int64_param", 1)}), "UNIMPLEMENTED", DECOUPLED),
        (infer("nope", [tensor("text_input", bytes_contents=[b"x"])]), "NOT_FOUND", "Request for unknown model"),
        (
            infer("phi2", [tensor("text_input", bytes_contents=[b"x"])]),
            "INVALID_ARGUMENT",
            "contents field must not be specified when using raw_input_contents for 'text_input' for model 'phi2'",
        ),
        (infer("phi2", None, ()), "INVALID_ARGUMENT", "unable to find data for input tensor 'text_input' for model"),
        (infer("phi2", [], ()), "INVALID_ARGUMENT", "[request id: <id_unknown>] expected number of inputs between 1"),
        (infer("phi2", None, (text(b"x"), b"more")), "OK", ""),
        (infer("phi2", [tensor("foo")]), "INVALID_ARGUMENT", "unexpected inference input 'foo' for model 'phi2'"),
        (infer(outputs=["foo"]), "INVALID_ARGUMENT", "unexpected inference output 'foo' for model 'phi2'"),
        (
            infer("phi2", [tensor("text_input"), tensor("text_input")], (text(b"x"),)),
            "INVALID_ARGUMENT",
            "[request id: <id_unknown>] input 'text_input' already exists in request",
        ),
        (
            infer("phi2", [tensor("text_input", shape=[2])], id="my id"),
            "INVALID_ARGUMENT",
            "[request id: my id] unexpected shape for input 'text_input' for model 'phi2'. Expected [1], got [2]. ",
        ),
        (
            infer("phi2", [tensor("text_input", "INT32")], (b"\0\0\0\0",)),
            "INVALID_ARGUMENT",
            "[request id: <id_unknown>] inference input 'text_input' data-type is 'INT32', but model 'phi2' expects",
        ),
        (
            infer("phi2", [tensor("text_input", "WHAT")]),
            "INVALID_ARGUMENT",
            "[request id: <id_unknown>] inference input 'text_input' data-type is '<invalid>', but model 'phi2'",
        ),
        (strings(b""), "INVALID_ARGUMENT", "[request id: <id_unknown>] expected 1 string elements for inference"),
        (strings(b"\1"), "INVALID_ARGUMENT", "[request id: <id_unknown>] incomplete string length indicator for"),
        (strings(text(b"a") + b"x"), "INVALID_ARGUMENT", "[request id: <id_unknown>] incomplete string length"),
        (strings(text(b"a", b"b")), "INVALID_ARGUMENT", "[request id: <id_unknown>] unexpected number of string"),
        (
            strings(b"\xff\xff\xff\xff"),
            "INVALID_ARGUMENT",
            "incomplete string data for inference input 'text_input', expecting string of length 4294967295 but only 0",
        ),
        (max_tokens("INT32", int_contents=[2]), "OK", ""),
        (
            max_tokens("INT32", int_contents=[2, 3]),
            "INVALID_ARGUMENT",
            "[request id: <id_unknown>] input byte size mismatch for input 'max_tokens' for model 'phi2'. Expected 4,",
        ),
        (
            max_tokens("INT32", int64_contents=[2]),
            "INVALID_ARGUMENT",
            "unexpected explicit tensor data for input tensor 'max_tokens' for model 'phi2' of type 'INT64', expected"
            " datatype 'INT32'",
        ),
        (
            max_tokens("INT32", int_contents=[2], fp32_contents=[2]),
            "INVALID_ARGUMENT",
            "unexpected explicit tensor data for input tensor 'max_tokens' for model 'phi2', binary data was already",
        ),
        (
            max_tokens("FP16", fp32_contents=[2]),
            "INVALID_ARGUMENT",
            "unexpected explicit tensor data for input tensor 'max_tokens' for model 'phi2' of type 'FP32', expected"
            " datatype 'FP16'",
        ),
        (
            max_tokens("INT8", int_contents=[500]),
            "INVALID_ARGUMENT",
            "[request id: <id_unknown>] inference input 'max_tokens' data-type is 'INT8', but model 'phi2' expects",
        ),
        (max_tokens("INT32"), "INVALID_ARGUMENT", "unable to find data for input tensor 'max_tokens' for model 'phi2'"),
        (infer(parameters={"triton_x": ("int64_param", 1)}), "INVALID_ARGUMENT", RESERVED),
        (
            infer(parameters={"triton_enable_empty_final_response": ("int64_param", 1)}),
            "INVALID_ARGUMENT",
            "invalid value type for 'triton_enable_empty_final_response' parameter, expected bool_param.",
        ),
        (infer(parameters={"triton_enable_empty_final_response": ("bool_param", True)}), "OK", ""),
        (
            infer(parameters={"foo": ("uint64_param", 1)}),
            "INVALID_ARGUMENT",
            "invalid value type for 'foo' parameter, expected int64_param, bool_param, or string_param.",
        ),
        (
            infer(parameters={"sequence_id": ("double_param", 1.5)}),
            "INVALID_ARGUMENT",
            "invalid value type for 'sequence_id' parameter, expected int64_param or string_param.",
        ),
        (
            infer(parameters={"priority": ("string_param", "x")}),
            "INVALID_ARGUMENT",
            "invalid value type for 'priority' parameter, expected int64_param or uint64_param.",
        ),
        (
            infer(parameters={"priority": ("int64_param", -1)}),
            "INVALID_ARGUMENT",
            "invalid value for 'priority', expected value >= 0.",
        ),
        (infer(parameters={"priority": ("uint64_param", 2**64 - 1)}), "OK", ""),
        (infer(parameters={"timeout": ("int64_param", 5), "sequence_start": ("bool_param", True)}), "OK", ""),
        (
            shared("inputs", region=("string_param", "r")),
            "INVALID_ARGUMENT",
            "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor"
            " 'text_input'",
        ),
        (
            shared("inputs", byte_size=("int64_param", 8)),
            "INVALID_ARGUMENT",
            "'shared_memory_byte_size' can not be specified without 'shared_memory_region' parameter for tensor",
        ),
        (
            shared("inputs", region=("int64_param", 8)),
            "INVALID_ARGUMENT",
            "invalid value type for 'shared_memory_region' parameter for tensor 'text_input', expected string_param.",
        ),
        (
            shared("outputs", region=("string_param", "r"), byte_size=("int64_param", 8)),
            "NOT_FOUND",
            "Unable to find shared memory region: 'r'",
        ),
        (
            with_parameters(infer(outputs=["text_output"]), "outputs", classification=("int64_param", 0)),
            "INVALID_ARGUMENT",
            "invalid value for 'classification' parameter, expected >= 0",
        ),
        (
            with_parameters(infer(outputs=["log_probs"]), "outputs", classification=("int64_param", 2)),
            "UNIMPLEMENTED",
            "the gateway does not classify: output 'log_probs' asks for it",
        ),
        (with_parameters(infer(outputs=["text_output"]), "outputs", binary_data=("bool_param", True)), "OK", ""),
    ],
)
async def test_requests(gateway: Stub, message: Any, code: str, start: str) -> None:
    asked = await gateway.ask("ModelInfer", message)
    assert (asked.code, asked.details[: len(start)]) == (code, start)


@pytest.mark.parametrize(
    ("call", "data", "answer"),
    [
        ("inference.GRPCInferenceService/ModelInfer", b"\xff\xff\xff", ("INTERNAL", "Unable to parse request")),
        ("inference.GRPCInferenceService/ModelInfer", b"\x0a\x02\xff\xfe", ("INTERNAL", "Unable to parse request")),
        ("inference.GRPCInferenceService/ServerLive", b"\xff", ("INTERNAL", "Unable to parse request")),
        ("grpc.health.v1.Health/Check", b"\xff", ("INTERNAL", "Unable to parse request")),
        ("grpc.health.v1.Health/Watch", b"", ("UNIMPLEMENTED", "")),
        ("inference.GRPCInferenceService/Nope", b"", ("UNIMPLEMENTED", "")),
        ("x.Y/Nope", b"", ("UNIMPLEMENTED", "")),
    ],
)
async def test_bytes_that_are_no_request(gateway: Stub, call: str, data: bytes, answer: tuple[str, str]) -> None:
    assert await gateway.raw(f"/{call}", data) == answer


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "INVALID_ARGUMENT"),
        (422, "INVALID_ARGUMENT"),
        (401, "INTERNAL"),
        (404, "NOT_FOUND"),
        (429, "UNAVAILABLE"),
        (503, "UNAVAILABLE"),
        (500, "INTERNAL"),
    ],
)
async def test_statuses_of_vllm(gateway: Stub, vllm: VllmServer, status: int, code: str) -> None:
    async def refuse(_: web.Request) -> web.Response:
        answer = {"error": {"message": "so it is", "type": "x", "code": status}}
        return web.json_response(answer, status=status, headers={"Retry-After": "7"})

    vllm.misbehave = refuse
    asked = await gateway.ask("ModelInfer", infer())
    assert asked.code == code
    if code == "UNAVAILABLE":
        assert (asked.details, asked.trailing["retry-after"]) == ("so it is", "7")
        assert asked.trailing["grpc-retry-pushback-ms"] == "7000"


async def test_a_text_longer_than_grpcs_headers(gateway: Stub, vllm: VllmServer) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "\ud800é" * 20_000}}, status=400)

    vllm.misbehave = refuse
    asked = await gateway.ask("ModelInfer", infer())
    assert asked.code == "INVALID_ARGUMENT"
    assert asked.details.startswith("?é?é")
    assert (await gateway.ask("ModelInfer", infer("x" * 100_000))).code == "NOT_FOUND"


async def test_vllm_that_is_not_there() -> None:
    async with serving(config_of("http://127.0.0.1:9")) as address, stub_of(address) as gateway:
        assert (await gateway.ask("ModelInfer", infer())).code == "UNAVAILABLE"
        assert (await gateway.ask("ServerLive", pb.ServerLiveRequest())).answer.live
        assert not (await gateway.ask("ServerReady", pb.ServerReadyRequest())).answer.ready
        assert await gateway.raw("/grpc.health.v1.Health/Check", b"") == ("OK", b"\x08\x02")


async def test_an_error_of_the_gateway_itself(vllm: VllmServer) -> None:
    class Broken:
        async def single(self, _: Any) -> None:
            raise ZeroDivisionError("secret")

    async with serving(config_of(vllm.url), Broken()) as address, stub_of(address) as gateway:
        asked = await gateway.ask("ModelInfer", infer())
        assert (asked.code, asked.details) == ("INTERNAL", "internal error of the gateway: ZeroDivisionError")


async def test_a_message_above_the_limit(vllm: VllmServer) -> None:
    config = config_of(vllm.url)
    assert config.grpc is not None
    small = config.grpc.model_copy(update={"max_message_bytes": 2048})
    async with serving(config.model_copy(update={"grpc": small})) as address, stub_of(address) as gateway:
        asked = await gateway.ask("ModelInfer", infer("phi2", None, (text(b"x" * 4096),)))
        assert asked.code == "RESOURCE_EXHAUSTED"
        assert (await gateway.ask("ModelInfer", infer())).code == "OK"
