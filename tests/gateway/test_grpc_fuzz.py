"""Arbitrary messages over a real connection: always a status, soon, and never one that says the gateway has failed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from .conftest import VllmServer
from .conftest import serving as serving_vllm
from .grpc_serving import config_of, infer, serving, tensor, text

SERVICE = "/inference.GRPCInferenceService/"
EXPECTED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"}
UNREADABLE = ("INTERNAL", "Unable to parse request")
PATIENCE_S = 20
ENOUGH = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])

datatypes = st.sampled_from(["BYTES", "INT32", "FP32", "BOOL", "FP16", "BF16", "INT8", "UINT64", "", "WHAT"])
names = st.sampled_from(["text_input", "max_tokens", "temperature", "return_log_probs", "stream", "", "x"]) | st.text(
    max_size=5
)
words = st.sampled_from([text(b"x"), text(b""), b"\0\0\0\0", b"\1\0\0\0", b"\xff\xff\xff\xff"]) | st.binary(max_size=12)
int32s, int64s = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
shapes = st.lists(st.sampled_from([1, 1, 1, 0, -1, 2, 2**62]) | int64s, max_size=3)
floats = st.floats(width=32)
parameters = st.dictionaries(
    st.sampled_from(
        ["timeout", "priority", "sequence_id", "triton_enable_empty_final_response", "shared_memory_region"]
    )
    | st.sampled_from(["shared_memory_byte_size", "classification", "temperature", "", "triton_x"])
    | st.text(max_size=4),
    st.one_of(
        st.builds(pb.InferParameter, bool_param=st.booleans()),
        st.builds(pb.InferParameter, int64_param=int64s),
        st.builds(pb.InferParameter, string_param=st.text(max_size=4)),
        st.builds(pb.InferParameter, double_param=st.floats()),
        st.builds(pb.InferParameter, uint64_param=st.integers(0, 2**64 - 1)),
        st.builds(pb.InferParameter),
    ),
    max_size=2,
)
contents = st.one_of(
    st.builds(pb.InferTensorContents, int_contents=st.lists(int32s, min_size=1, max_size=2)),
    st.builds(pb.InferTensorContents, bytes_contents=st.lists(st.binary(max_size=4), max_size=2)),
    st.builds(pb.InferTensorContents, uint_contents=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=2)),
    st.builds(
        pb.InferTensorContents,
        bool_contents=st.lists(st.booleans(), max_size=1),
        int64_contents=st.lists(int64s, max_size=1),
        uint64_contents=st.lists(st.integers(0, 2**64 - 1), max_size=1),
        fp32_contents=st.lists(floats, max_size=2),
        fp64_contents=st.lists(st.floats(), max_size=1),
    ),
)
inputs = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=names,
    datatype=datatypes,
    shape=shapes,
    parameters=st.just({}) | parameters,
    contents=st.none() | contents,
)
outputs = st.builds(
    pb.ModelInferRequest.InferRequestedOutputTensor,
    name=st.sampled_from(["text_output", "log_probs", "", "x"]),
    parameters=st.just({}) | parameters,
)
arbitrary = st.builds(
    pb.ModelInferRequest,
    model_name=st.sampled_from(["phi2", "phi2", "phi2_stream", "phi2_stream", "nope", ""]) | st.text(max_size=4),
    model_version=st.sampled_from(["", "", "1", "2"]) | st.text(max_size=4),
    id=st.text(max_size=4),
    parameters=st.just({}) | parameters,
    inputs=st.lists(inputs, max_size=3),
    outputs=st.lists(outputs, max_size=2),
    raw_input_contents=st.lists(words, max_size=3),
)
# A good message but for the bytes, and one but for the contents: almost nothing arbitrary gets as far.
wrong_bytes = st.builds(
    lambda model, datatype, raw: infer(model, [tensor("text_input", datatype)], [raw]),
    st.sampled_from(["phi2", "phi2_stream"]),
    st.sampled_from(["BYTES", "BYTES", "INT32", "BF16"]),
    st.binary(max_size=3) | words,
)
wrong_contents = st.builds(
    lambda datatype, given: infer("phi2", [pb.ModelInferRequest.InferInputTensor(**given, datatype=datatype)], []),
    st.sampled_from(["INT8", "INT16", "UINT8", "UINT16", "INT32"]),
    st.builds(lambda found: {"name": "max_tokens", "shape": [1], "contents": found}, contents),
)
requests = arbitrary | wrong_bytes | wrong_contents


@pytest.fixture(scope="module")
def channel() -> Iterator[grpc.Channel]:
    """A gateway in a thread of its own, because hypothesis runs outside of any event loop."""
    address: list[str] = []
    is_up, loop = threading.Event(), asyncio.new_event_loop()

    async def serve(end: asyncio.Event) -> None:
        async with serving_vllm(VllmServer().app()) as url, serving(config_of(url)) as found:
            address.append(found)
            is_up.set()
            await end.wait()

    end = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(end)))
    thread.start()
    assert is_up.wait(PATIENCE_S)
    with grpc.insecure_channel(address[0]) as made:
        yield made
    loop.call_soon_threadsafe(end.set)
    thread.join(PATIENCE_S)
    loop.close()


def asked(channel: grpc.Channel, call: str, data: bytes) -> tuple[str, str]:
    try:
        channel.unary_unary(SERVICE + call)(data, timeout=PATIENCE_S)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


def streamed(channel: grpc.Channel, messages: list[bytes]) -> tuple[list[Any], str]:
    call = channel.stream_stream(SERVICE + "ModelStreamInfer")(iter(messages), timeout=PATIENCE_S)
    responses = [pb.ModelStreamInferResponse.FromString(data) for data in call]
    return responses, call.code().name


@ENOUGH
@given(request=requests)
def test_any_request(channel: grpc.Channel, request: Any) -> None:
    assert asked(channel, "ModelInfer", request.SerializeToString())[0] in EXPECTED


@ENOUGH
@given(messages=st.lists(requests, max_size=4))
def test_any_stream(channel: grpc.Channel, messages: list[Any]) -> None:
    """Every request has at least one response, and none says that the gateway has failed."""
    last = infer(id="last")
    responses, code = streamed(channel, [message.SerializeToString() for message in [*messages, last]])
    assert code == "OK"
    assert {message.id for message in [*messages, last]} == {response.infer_response.id for response in responses}
    assert not [response for response in responses if "internal error" in response.error_message]


@ENOUGH
@given(
    call=st.sampled_from([*(method.name for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods)]),
    data=st.binary(max_size=40),
)
def test_any_bytes(channel: grpc.Channel, call: str, data: bytes) -> None:
    code, details = asked(channel, call, data)
    assert code in EXPECTED or (code, details) == UNREADABLE or details.startswith("failed to load ''")


@ENOUGH
@given(place=st.integers(0, 200), flip=st.integers(1, 255))
def test_a_good_request_with_one_byte_changed(channel: grpc.Channel, place: int, flip: int) -> None:
    data = bytearray(
        infer(id="7", outputs=["text_output"], parameters={"timeout": ("int64_param", 1)}).SerializeToString()
    )
    data[place % len(data)] ^= flip
    code, details = asked(channel, "ModelInfer", bytes(data))
    assert code in EXPECTED or (code, details) == UNREADABLE
