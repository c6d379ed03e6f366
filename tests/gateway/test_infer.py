"""`infer`: statuses and texts as a Triton 2.51 server gave them to the same requests; then what it answers."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from migrate.gateway.core.models import Registry
from migrate.gateway.core.validation import rows
from migrate.gateway.errors import Code, TritonError
from migrate.gateway.web import infer as infer_http

from .conftest import Client, VllmServer, client_of
from .every_style import config_of_every_style

SIZE = "Inference-Header-Content-Length"
TAG = "[request id: <id_unknown>] "
TEXT = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["zero"]}
ONE_SOURCE = (
    "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters',"
    " 'shared_memory_region' in 'parameters'. But "
)
RAW = f"{TAG}Raw request must only have 1 input (found 1) to be deduced but got 4 inputs in 'phi2' model configuration"
NO_BATCH = (
    f"{TAG}unexpected shape for input 'text_input' for model 'batched'. Expected [-1,1], got [2,2]. NOTE: Setting a"
    " non-zero max_batch_size in the model config requires a batch dimension to be prepended to each input shape."
    " If you want to specify the full shape including the batch dim in your input dims config, try setting"
    " max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)


@pytest.fixture
async def styles(vllm: VllmServer) -> AsyncIterator[Client]:
    async with client_of(config_of_every_style(vllm.url)) as client:
        yield client


async def post(
    client: Client, body: Any, headers: Mapping[str, str] | None = None, model: str = "phi2"
) -> tuple[int, bytes, Mapping[str, str]]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(auto_decompress=False, timeout=timeout) as session:
        url = f"{client.url}/v2/models/{model}/infer"
        async with session.post(
            url, data=content, headers=headers, skip_auto_headers=["Accept-Encoding", "Content-Type"]
        ) as response:
            return response.status, await response.read(), response.headers


async def refused(client: Client, body: Any, headers: Mapping[str, str] | None = None, model: str = "phi2") -> Any:
    status, content, _ = await post(client, body, headers, model)
    return status, json.loads(content)["error"]


def tensor(name: str, datatype: str, data: list[Any], shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)] if shape is None else shape, "data": data}


def prompts(count: int, size: int = 1) -> dict[str, Any]:
    return tensor("text_input", "BYTES", ["zero"] * count * size, [count, size])


def with_tail(tail: bytes, size: Any, off: int = 0, **changes: Any) -> tuple[bytes, dict[str, str]]:
    entry = {
        "name": "text_input",
        "datatype": "BYTES",
        "shape": [1],
        "parameters": {"binary_data_size": size},
    } | changes
    head = json.dumps({"inputs": [entry]}).encode()
    return head + tail, {SIZE: str(len(head) + off)}


ELEMENT = struct.pack("<I", 4) + b"zero"


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({"name": 5}, 500, "Unable to parse 'name': attempt to access JSON non-string as string"),
        ({"datatype": None}, 500, "Unable to parse 'datatype': attempt to access JSON non-string as string"),
        ({"datatype": "INT99"}, 400, "invalid datatype for input text_input"),
        ({"datatype": "FP16"}, 400, "receiving FP16 data via JSON is not supported. Please use the binary data format"),
        ({"shape": "1"}, 500, "Unable to parse 'shape': attempt to access JSON non-array as array"),
        ({"shape": [-1]}, 500, "Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-int"),
        (
            {"shape": [True]},
            500,
            "Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-int",
        ),
        (
            {"shape": [2]},
            400,
            f"{TAG}unexpected shape for input 'text_input' for model 'phi2'. Expected [1], got [2]. ",
        ),
        (
            {"shape": [1, 1]},
            400,
            f"{TAG}unexpected shape for input 'text_input' for model 'phi2'. Expected [1], got [1,1",
        ),
        ({"shape": []}, 400, f"{TAG}unexpected shape for input 'text_input' for model 'phi2'. Expected [1], got []. "),
        (
            {"shape": [2**62, 4]},
            400,
            f"{TAG}unexpected shape for input 'text_input' for model 'phi2'. Expected [1], got",
        ),
        ({"data": "x"}, 500, "Unable to parse 'data': attempt to access JSON non-array as array"),
        ({"data": [5]}, 500, "Unable to parse JSON bytes array: attempt to access JSON non-string as string"),
        (
            {"data": []},
            400,
            f"{TAG}expected 1 string elements for inference input 'text_input' for model 'phi2', got 0",
        ),
        ({"data": ["a"] * 3}, 400, f"{TAG}unexpected number of string elements 2 for inference input 'text_input' for"),
        (
            {"datatype": "INT32", "data": [1, 2]},
            500,
            "Unable to parse 'data': Shape does not match true shape of 'data'",
        ),
        (
            {"datatype": "INT32", "data": [1]},
            400,
            f"{TAG}inference input 'text_input' data-type is 'INT32', but model 'phi2' expects 'BYTES'",
        ),
        ({"name": "zzz"}, 400, "unexpected inference input 'zzz' for model 'phi2'"),
        ({"parameters": {"binary_data_size": 4}}, 400, ONE_SOURCE + "set 'data' 'binary_data_size'"),
        ({"parameters": {"shared_memory_region": "x"}}, 400, ONE_SOURCE + "set 'data' 'shared_memory_region'"),
    ],
)
async def test_one_input(styles: Client, vllm: VllmServer, change: dict[str, Any], status: int, text: str) -> None:
    found, error = await refused(styles, {"inputs": [TEXT | change]})
    assert (found, error[: len(text)]) == (status, text)
    assert vllm.bodies == []


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 500, "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"),
        ([], 500, "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'"),
        (b"{", 500, "failed to parse the request JSON buffer: Missing a name for object member. at 1"),
        (b" ", 500, "failed to parse the request JSON buffer: The document is empty. at 1"),
        (b"", 400, RAW),
        ({"inputs": 5}, 500, "Unable to parse 'inputs': attempt to access JSON non-array as array"),
        ({"inputs": [5]}, 400, ONE_SOURCE + "no field is set"),
        ({"inputs": [TEXT], "id": 5}, 500, "Unable to parse 'id': attempt to access JSON non-string as string"),
        ({"inputs": [TEXT, TEXT]}, 400, f"{TAG}input 'text_input' already exists in request"),
        (
            {"inputs": [], "id": "a"},
            400,
            "[request id: a] expected number of inputs between 1 and 4 but got 0 inputs for model 'phi2'. Got input(s)"
            " [], but missing required input(s) ['text_input']. Please provide all required input(s).",
        ),
        (
            {"inputs": [tensor(name, "INT32", [1]) for name in ("a", "b", "c", "d", "e")]},
            400,
            f"{TAG}expected number of inputs between 1 and 4 but got 5 inputs for model 'phi2'. Got input(s)"
            " ['e','d','c','b','a'], but missing required input(s) ['text_input']. Please",
        ),
        ({"inputs": [], "outputs": [{"name": "q"}]}, 400, "unexpected inference output 'q' for model 'phi2'"),
        (
            {"inputs": [TEXT], "outputs": {}},
            500,
            "Unable to parse 'outputs': attempt to access JSON non-array as array",
        ),
        (
            {"inputs": [TEXT], "outputs": [5]},
            500,
            "Unable to parse 'name': attempt to access non-existing object member",
        ),
        (
            {"inputs": [TEXT], "outputs": [{"name": "text_output", "parameters": {"binary_data": 5}}]},
            500,
            "Unable to parse 'binary_data': attempt to access JSON non-boolean as boolean",
        ),
        (
            {"inputs": [TEXT], "outputs": [{"name": "text_output", "parameters": {"shared_memory_region": "x"}}]},
            404,
            "Unable to find shared memory region: 'x'",
        ),
        (
            {"inputs": [TEXT], "outputs": [{"name": "text_output", "parameters": {"classification": 2}}]},
            501,
            "output 'text_output': classification is not supported",
        ),
        ({"inputs": [TEXT, tensor("max_tokens", "INT32", [0])]}, 400, "max_tokens must be at least 1, got 0"),
        (
            {"inputs": [TEXT, tensor("max_tokens", "INT32", [2**31])]},
            400,
            "the value of input 'max_tokens' is out of range",
        ),
        ({"inputs": [tensor("max_tokens", "INT32", [1])]}, 400, "text_input is empty"),
    ],
)
async def test_whole_requests(styles: Client, vllm: VllmServer, body: Any, status: int, text: str) -> None:
    found, error = await refused(styles, body)
    assert (found, error[: len(text)]) == (status, text)
    assert vllm.bodies == []


@pytest.mark.parametrize(
    ("parameters", "status", "text"),
    [
        (None, 500, "failed to get request params.: attempt to get members for non-object"),
        ({"binary_data_output": 5}, 500, "Unable to parse 'binary_data_output': attempt to access JSON non-boolean"),
        ({"priority": -1}, 500, "Unable to parse 'priority': attempt to access JSON non-unsigned-integer"),
        ({"timeout": "x"}, 500, "Unable to parse 'timeout': attempt to access JSON non-unsigned-integer"),
        ({"sequence_id": 1.5}, 500, "Unable to parse 'sequence_id': attempt to access JSON non-string as string"),
        ({"sequence_start": 1}, 500, "Unable to parse 'sequence_start': attempt to access JSON non-boolean as boolean"),
        (
            {"triton_x": 1},
            400,
            "parameter keys starting with 'triton_' are reserved for Triton usage and should not be",
        ),
        ({"foo": None}, 400, "parameter 'foo' has invalid type. It should be either 'int', 'bool', or 'string'."),
        ({"top_k": 5}, 400, "request parameter 'top_k' cannot be mapped to vLLM"),
    ],
)
async def test_parameters(styles: Client, parameters: Any, status: int, text: str) -> None:
    found, error = await refused(styles, {"inputs": [TEXT], "parameters": parameters})
    assert (found, error[: len(text)]) == (status, text)


@pytest.mark.parametrize(
    ("body", "headers", "status", "text"),
    [
        (*with_tail(ELEMENT, 8, off=9), 400, "inference header size should be in range (0, 118), got: 119"),
        (*with_tail(ELEMENT, 8, off=8), 500, "failed to parse the request JSON buffer: The document root must not be"),
        (
            *with_tail(b" " * 8, 8, off=8),
            400,
            "unexpected size for input 'text_input', expecting 8 additional bytes for",
        ),
        (
            *with_tail(b" " * 8, 8, off=1),
            400,
            "unexpected size for input 'text_input', expecting 1 additional bytes for",
        ),
        (*with_tail(ELEMENT, 8, off=-1), 500, "failed to parse the request JSON buffer: Missing a comma or '}'"),
        (*with_tail(ELEMENT, 7), 400, "unexpected additional input data for model 'phi2'"),
        (
            *with_tail(ELEMENT, 2**64 - 1),
            400,
            "unexpected size for input 'text_input', expecting 18446744073709551607 add",
        ),
        (
            *with_tail(ELEMENT, -1),
            500,
            "Unable to parse 'binary_data_size': attempt to access JSON non-unsigned-integer",
        ),
        (*with_tail(b"", 0), 400, f"{TAG}expected 1 string elements for inference input 'text_input'"),
        (*with_tail(b"aa", 2), 400, f"{TAG}incomplete string length indicator for inference input 'text_input' for"),
        (
            *with_tail(b"\xff" * 4, 4),
            400,
            "incomplete string data for inference input 'text_input', expecting string of",
        ),
        (*with_tail(ELEMENT * 2, 16), 400, f"{TAG}unexpected number of string elements 2 for inference input"),
        (*with_tail(b"\1\0\0\0\xff", 5), 400, "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"{}", {SIZE: "-1"}, 400, "inference header size should be in range (0, 2), got: -1"),
        (b"{}", {SIZE: "9" * 30}, 400, f"inference header size should be in range (0, 2), got: {'9' * 30}"),
        (b"{}", {SIZE: "word"}, 400, RAW),
        (b"{}", {SIZE: "0"}, 400, RAW),
        (b"{}", {SIZE: "1.5"}, 500, "failed to parse the request JSON buffer: Missing a name for object member. at 1"),
        (b"", {"Content-Encoding": "gzip"}, 400, "nothing to be decompressed"),
        (b"{}", {"Content-Encoding": "gzip"}, 400, "the body cannot be decompressed"),
        (b"{}", {"Content-Encoding": "br"}, 501, "Unsupported compression type"),
        (b"{}", {"Content-Encoding": "br", SIZE: "-1"}, 501, "Unsupported compression type"),
        (gzip.compress(b"[" + b" " * 10**8), {"Content-Encoding": "gzip"}, 400, "the decompressed body is larger than"),
    ],
)
async def test_headers_and_binary_data(
    styles: Client, vllm: VllmServer, body: bytes, headers: dict[str, str], status: int, text: str
) -> None:
    found, error = await refused(styles, body, headers)
    assert (found, error[: len(text)]) == (status, text)
    assert vllm.bodies == []


@pytest.mark.parametrize(
    ("inputs", "status", "text"),
    [
        ([prompts(5)], 400, f"{TAG}inference request batch-size must be <= 4 for 'batched'"),
        (
            [prompts(0)],
            400,
            f"{TAG}expected 1 string elements for inference input 'text_input' for model 'batched', got 0",
        ),
        ([prompts(2, 2)], 400, NO_BATCH),
        (
            [prompts(2), tensor("max_tokens", "INT32", [1] * 3, [3, 1])],
            400,
            f"{TAG}input 'text_input' batch size does not match other inputs for 'batched'",
        ),
        (
            [prompts(2), tensor("max_tokens", "INT32", [1], [])],
            400,
            f"{TAG}input 'max_tokens' has no shape but model requires batch dimension for 'batched'",
        ),
        (
            [prompts(1), tensor("return_log_probs", "BOOL", [True], [1, 1])],
            200,
            "",
        ),
    ],
)
async def test_batches(styles: Client, inputs: list[Any], status: int, text: str) -> None:
    found, content, _ = await post(styles, {"inputs": inputs}, model="batched")
    assert (found, json.loads(content).get("error", "")) == (status, text)


async def test_rows_of_different_lengths_are_refused(styles: Client) -> None:
    inputs = [
        prompts(2),
        tensor("max_tokens", "INT32", [1, 2], [2, 1]),
        tensor("return_log_probs", "BOOL", [True] * 2, [2, 1]),
    ]
    status, error = await refused(styles, {"inputs": inputs}, model="batched")
    assert (status, error[:31]) == (501, "output 'output_ids' has rows of")


async def test_a_batch_is_as_many_completions(styles: Client, vllm: VllmServer) -> None:
    inputs = [
        tensor("text_input", "BYTES", ["a", "b", "c"], [3, 1]),
        tensor("max_tokens", "INT32", [1, 2, 3], [3, 1]),
    ]
    _, content, _ = await post(styles, {"inputs": inputs}, model="batched")
    (output,) = json.loads(content)["outputs"]
    assert output == {
        "name": "text_output",
        "datatype": "BYTES",
        "shape": [3, 1],
        "data": [" one", " one two", " one two three"],
    }
    assert sorted((body["prompt"], body["max_tokens"]) for body in vllm.bodies) == [("a", 1), ("b", 2), ("c", 3)]


async def test_the_first_error_of_a_batch_is_its_answer(styles: Client, vllm: VllmServer) -> None:
    async def refuse_one(request: web.Request) -> web.Response:
        if (await request.json())["prompt"] == "b":
            return web.json_response({"error": {"message": "too long"}}, status=400)
        return web.json_response({"choices": [{"text": "x"}]})

    vllm.misbehave = refuse_one
    inputs = [tensor("text_input", "BYTES", ["a", "b", "c"], [3, 1])]
    assert await refused(styles, {"inputs": inputs}, model="batched") == (400, "too long")


async def test_a_decoupled_model_is_refused_before_its_body_is_read(styles: Client) -> None:
    text = "HTTP end point doesn't support models with decoupled transaction policy"
    assert await refused(styles, b"{", model="phi2_stream") == (501, text)


async def test_a_decoupled_model_that_may_answer(vllm: VllmServer) -> None:
    async with client_of(config_of_every_style(vllm.url, answers_infer=True)) as client:
        status, content, _ = await post(client, {"inputs": [TEXT]}, model="phi2_stream")
        assert (status, json.loads(content)["outputs"][0]["data"]) == (200, ["zero one two three"])
        streamed = {"inputs": [TEXT, tensor("stream", "BOOL", [True])]}
        assert (await refused(client, streamed, model="phi2_stream"))[0] == 500


async def test_json(styles: Client, vllm: VllmServer) -> None:
    body = {
        "id": "é",
        "inputs": [TEXT, tensor("max_tokens", "INT32", [[2]], [1])],
        "outputs": [{"name": "text_output"}],
    }
    status, content, headers = await post(styles, body)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert content.decode() == (
        '{"id":"é","model_name":"phi2","model_version":"1","outputs":'
        '[{"name":"text_output","datatype":"BYTES","shape":[1],"data":[" one two"]}]}'
    )
    assert vllm.bodies[0]["max_tokens"] == 2


async def test_binary_both_ways(styles: Client) -> None:
    entries = [
        {"name": "text_input", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 8}},
        {"name": "return_log_probs", "datatype": "BOOL", "shape": [1], "parameters": {"binary_data_size": 1}},
        tensor("max_tokens", "INT32", [2]),
    ]
    head = json.dumps({"inputs": entries, "parameters": {"binary_data_output": True}}).encode()
    _, content, headers = await post(styles, head + ELEMENT + b"\1", {SIZE: str(len(head))})
    assert headers["Content-Type"] == "application/octet-stream"
    size = int(headers[SIZE])
    outputs = json.loads(content[:size])["outputs"]
    assert [(entry["name"], entry["shape"], entry["parameters"]["binary_data_size"]) for entry in outputs] == [
        ("text_output", [1], 12),
        ("output_ids", [2], 8),
        ("log_probs", [2], 8),
    ]
    assert content[size:] == struct.pack("<I8s2i2f", 8, b" one two", 100, 101, -0.1, -0.1)


async def test_an_output_that_is_named_is_binary_only_when_it_says_so(styles: Client) -> None:
    named = [{"name": "output_ids", "parameters": {"binary_data": True}}, {"name": "text_output"}]
    inputs = [TEXT, tensor("max_tokens", "INT32", [1]), tensor("return_log_probs", "BOOL", [True])]
    body = {"inputs": inputs, "outputs": named, "parameters": {"binary_data_output": True}}
    _, content, headers = await post(styles, body)
    size = int(headers[SIZE])
    text, ids = json.loads(content[:size])["outputs"]
    assert (text["data"], ids["parameters"], content[size:]) == ([" one"], {"binary_data_size": 4}, b"\x64\0\0\0")


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip, deflate", "gzip"),
        ("deflate;q=0.5,gzip;q=0.6", "gzip"),
        ("deflate, gzip", "deflate"),
        ("identity, gzip", None),
        ("gzip;q=0", None),
        ("GZIP", None),
        ("br", None),
        ("*", None),
    ],
)
async def test_answers_are_compressed_as_asked(styles: Client, accepted: str, encoding: str | None) -> None:
    body = gzip.compress(json.dumps({"inputs": [TEXT]}).encode())
    _, content, headers = await post(styles, body, {"Content-Encoding": "gzip", "Accept-Encoding": accepted})
    assert headers.get("Content-Encoding") == encoding
    unpacked = zlib.decompress(content, 32 + zlib.MAX_WBITS) if encoding else content
    assert json.loads(unpacked)["outputs"][0]["data"] == [" one two three"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_either_format_under_either_name_and_torn(styles: Client, encoding: str) -> None:
    body = json.dumps({"inputs": [TEXT]}).encode()
    for packed in (gzip.compress(body), zlib.compress(body), gzip.compress(body)[:-8], gzip.compress(body) + b"x"):
        assert (await post(styles, packed, {"Content-Encoding": encoding}))[0] == 200


REGISTRY = Registry(config_of_every_style("http://127.0.0.1:9"))
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["text_input", "max_tokens", "x"]) | st.integers(),
        "datatype": st.sampled_from(["BYTES", "INT32", "FP16", "x"]) | st.none(),
        "shape": st.lists(st.integers(-1, 3) | st.just(2**63), max_size=3) | st.integers(),
        "data": st.lists(st.text(max_size=3) | st.integers() | st.floats() | st.lists(st.text(max_size=2)), max_size=3),
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_size", "shared_memory_region", "x"]), st.integers(-1, 9) | st.text(max_size=2)
        ),
    },
)
BODY = st.fixed_dictionaries(
    {"inputs": st.lists(ENTRY, max_size=3) | st.integers()},
    optional={
        "id": st.text(max_size=3) | st.integers(),
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["text_output", "x"]) | st.none()})),
        "parameters": st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=2) | st.none(), max_size=2),
    },
)


@given(
    BODY.map(lambda body: json.dumps(body).encode()) | st.binary(max_size=40),
    st.binary(max_size=20),
    st.none() | st.integers(-2, 200),
    st.sampled_from(["phi2", "batched", "ensemble"]),
)
def test_any_body_is_read_or_refused(head: bytes, tail: bytes, size: int | None, name: str) -> None:
    model = REGISTRY.get(name)
    try:
        request, _ = infer_http.read(head + tail, model, "", len(head) if size == 200 else size)
        batch = rows(model, request)
    except TritonError as error:
        assert error.code in (Code.INVALID_ARG, Code.INTERNAL, Code.NOT_FOUND, Code.UNSUPPORTED)
    else:
        assert 1 <= len(batch) <= max(1, model.max_batch_size)
