"""tritonclient's own clients, threads and asyncio, against the gateway."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from .conftest import VllmServer
from .grpc_serving import config_of, serving


@pytest.fixture
async def address(vllm: VllmServer) -> AsyncIterator[str]:
    async with serving(config_of(vllm.url)) as found:
        yield found


def prompt(*words: str, shape: tuple[int, ...] = (1,), module: Any = triton) -> Any:
    made = module.InferInput("text_input", list(shape), "BYTES")
    made.set_data_from_numpy(np.array([word.encode() for word in words], dtype=np.object_).reshape(shape))
    return made


def number(name: str, value: Any, kind: Any, datatype: str) -> Any:
    made = triton.InferInput(name, [1], datatype)
    made.set_data_from_numpy(np.array([value], dtype=kind))
    return made


async def with_client(address: str, work: Callable[[Any], Any]) -> Any:
    """Runs in a thread, as the client of threads needs it."""

    def run() -> Any:
        with closing(triton.InferenceServerClient(address)) as client:
            return work(client)

    return await asyncio.to_thread(run)


async def test_an_error_has_triton_text_and_status(address: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        await with_client(address, lambda client: client.infer("phi2", [prompt("a", "b", shape=(2,))], request_id="7"))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    expected = "[request id: 7] unexpected shape for input 'text_input' for model 'phi2'. Expected [1], got [2]. "
    assert caught.value.message() == expected


async def test_an_error_in_a_stream(address: str) -> None:
    def work(client: Any) -> tuple[Any, Any]:
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("nope", [prompt("a")], request_id="1")
        refused = answers.get(timeout=5)
        client.async_stream_infer("phi2", [prompt("a")], request_id="2")
        answered = answers.get(timeout=5)
        client.stop_stream()
        return refused[1], answered[0]

    refused, answered = await with_client(address, work)
    assert (refused.message(), refused.status()) == ("Request for unknown model: 'nope' is not found", None)
    assert answered.as_numpy("text_output").tolist() == [b" one two three"]


async def test_infer(address: str) -> None:
    inputs = [
        prompt("a"),
        number("max_tokens", 2, np.int32, "INT32"),
        number("temperature", 0.5, np.float32, "FP32"),
        number("return_log_probs", True, np.bool_, "BOOL"),
    ]
    outputs = [triton.InferRequestedOutput("text_output"), triton.InferRequestedOutput("output_ids")]
    result = await with_client(address, lambda client: client.infer("phi2", inputs, "1", outputs, request_id="9"))
    assert result.as_numpy("text_output").tolist() == [b" one two"]
    assert result.as_numpy("output_ids").tolist() == [100, 101]
    assert result.as_numpy("log_probs") is None
    assert (result.get_response().id, result.get_response().model_version) == ("9", "1")


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
async def test_compression(address: str, compression: str | None) -> None:
    words = "once upon a time " * 500
    work = lambda client: client.infer("phi2", [prompt(words)], compression_algorithm=compression)  # noqa: E731
    result = await with_client(address, work)
    assert result.as_numpy("text_output").tolist() == [b" one two three"]


async def test_a_message_above_the_limit_of_grpc_without_settings(address: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        await with_client(address, lambda client: client.infer("nope", [prompt("x" * 5_000_000)]))
    assert caught.value.status() == "StatusCode.NOT_FOUND"


async def test_what_a_client_asks_before_it_begins(address: str) -> None:
    def work(client: Any) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("phi2")
        assert not client.is_model_ready("nope")
        assert client.get_server_metadata(as_json=True)["name"] == "triton"
        assert client.get_model_metadata("phi2", as_json=True)["inputs"][0]["shape"] == ["1"]
        assert client.get_model_config("phi2_stream").config.model_transaction_policy.decoupled
        assert [row["name"] for row in client.get_model_repository_index(as_json=True)["models"]][0] == "phi2"
        assert client.get_inference_statistics("phi2").model_stats[0].name == "phi2"
        client.unregister_system_shared_memory()
        assert len(client.get_system_shared_memory_status().regions) == 0
        client.update_log_settings({"log_verbose_level": 1})
        assert client.get_trace_settings("phi2").settings["trace_level"].value == ["OFF"]
        client.unload_model("phi2")
        assert not client.is_model_ready("phi2")
        client.load_model("phi2")
        assert client.is_model_ready("phi2")

    await with_client(address, work)


async def test_async_infer_and_its_cancellation(address: str, vllm: VllmServer) -> None:
    is_running = threading.Event()

    async def hang(_: Any) -> None:
        is_running.set()
        await asyncio.sleep(60)

    def work(client: Any) -> Any:
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        running = client.async_infer("phi2", [prompt("a")], lambda result, error: answers.put((result, error)))
        assert is_running.wait(5)
        running.cancel()
        return answers.get(timeout=5)[1]

    vllm.misbehave = hang
    error = await with_client(address, work)
    assert error.status() == "StatusCode.CANCELLED"
    await asyncio.wait_for(vllm.cancelled.wait(), 5)


async def test_a_decoupled_loop_that_waits_for_the_final_flag(address: str) -> None:
    def work(client: Any) -> list[bytes]:
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        inputs = [prompt("a"), number("stream", True, np.bool_, "BOOL")]
        client.async_stream_infer("phi2_stream", inputs, request_id="1", enable_empty_final_response=True)
        words, is_final = [], False
        while not is_final:
            result, error = answers.get(timeout=5)
            assert error is None
            is_final = result.get_response().parameters["triton_final_response"].bool_param
            words.append(result.as_numpy("text_output")[0])
        client.stop_stream()
        return words

    assert await with_client(address, work) == [b" one", b" two", b" three"]


async def test_asyncio(address: str) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for request_id, model in (("1", "phi2"), ("2", "nope"), ("3", "phi2")):
            yield {"model_name": model, "inputs": [prompt("a", module=triton_aio)], "request_id": request_id}

    async with triton_aio.InferenceServerClient(address) as client:
        result = await client.infer("phi2", [prompt("a", module=triton_aio)])
        assert result.as_numpy("text_output").tolist() == [b" one two three"]
        answers = [answer async for answer in client.stream_infer(requests())]
    texts = [str(error.message()) if error else result.as_numpy("text_output")[0] for result, error in answers]
    assert sorted(map(str, texts)) == [
        "Request for unknown model: 'nope' is not found",
        "b' one two three'",
        "b' one two three'",
    ]
