"""What takes more than one call: streams by callback, cancellation, deadlines, calls that overlap."""

from __future__ import annotations

import asyncio
import inspect
import queue
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

from tritonclient.utils import InferenceServerException

from tests.e2e.gateway import clients
from tests.e2e.gateway.compare import joined, structure

_WAIT_S = 60
_PROMPT = "def add(a, b):"
# The lab's model goes on after it for as long as it may.
_LONG: dict[str, Any] = {"text_input": "return", "max_tokens": 450}


async def ask(client: str, address: str, body: dict[str, Any]) -> dict[str, Any]:
    """Run the scenario with this kind of client."""
    module = clients.MODULES[client]
    server = module.InferenceServerClient(address)
    try:
        return await _SCENARIOS[body["scenario"]](client, module, server)
    finally:
        closing = server.close()
        if inspect.isawaitable(closing):
            await closing


async def _statistics_count(client: str, module: Any, server: Any) -> dict[str, Any]:
    """What one answer and one refusal by the model add to the counters."""
    before = await _counters(server)
    for prompt in (_PROMPT, ""):
        try:
            await _finished(server.infer("phi2", _inputs(module, {"text_input": prompt, "max_tokens": 2})))
        except InferenceServerException:
            continue
    after = await _counters(server)
    return {name: after[name] - before[name] for name in after}


async def _counters(server: Any) -> dict[str, int]:
    plain = clients.plain(await _finished(server.get_inference_statistics("phi2")))
    found = plain["model_stats"][0]
    kinds = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
    counted = {kind: int(found["inference_stats"][kind]["count"]) for kind in kinds}
    return counted | {name: int(found[name]) for name in ("inference_count", "execution_count")}


async def _stream(client: str, module: Any, server: Any) -> dict[str, Any]:
    """Three requests at once on one stream, with a final empty response each."""
    requests = [("1", "phi2_stream", True), ("2", "phi2_stream", False), ("3", "nope", True)]
    asked = [_stream_request(module, name, identity, piecewise) for identity, name, piecewise in requests]
    seen: dict[str, list[Any]] = {"1": [], "2": [], "error": []}
    async for result, error in _streamed(client, server, asked, is_last=_counts_to(3)):
        if error is not None:
            seen["error"].append([error.message(), error.status()])
        else:
            seen[result.get_response().id].append(clients.infer_result(result))
    return {name: found if name == "error" else joined(found) for name, found in seen.items()}


def _counts_to(ends: int) -> Callable[[Any, Any], bool]:
    """Whether so many requests of a stream have had their final response or their error."""
    left = [ends]

    def is_last(result: Any, error: Any) -> bool:
        is_final = error is not None or result.get_response().parameters["triton_final_response"].bool_param
        left[0] -= bool(is_final)
        return left[0] == 0

    return is_last


def _stream_request(module: Any, name: str, identity: str, piecewise: bool, max_tokens: int = 6) -> dict[str, Any]:
    prompt = _PROMPT if max_tokens < _LONG["max_tokens"] else _LONG["text_input"]
    values = {"text_input": prompt, "sampling_parameters": f'{{"temperature": 0, "max_tokens": {max_tokens}}}'}
    return {
        "model_name": name,
        "inputs": _inputs(module, values | ({"stream": True} if piecewise else {})),
        "request_id": identity,
        "enable_empty_final_response": True,
    }


async def _streamed(
    client: str, server: Any, requests: list[dict[str, Any]], is_last: Callable[[Any, Any], bool]
) -> AsyncIterator[tuple[Any, Any]]:
    """Result and error of each response until the last one."""
    if client == "grpc.aio":
        answers = server.stream_infer(_sent(requests))
        async for result, error in answers:
            yield result, error
            if is_last(result, error):
                break
        return
    arrived: queue.Queue[tuple[Any, Any]] = queue.Queue()
    server.start_stream(lambda result, error: arrived.put((result, error)))
    for request in requests:
        server.async_stream_infer(**request)
    while True:
        result, error = await asyncio.to_thread(arrived.get, timeout=_WAIT_S)
        yield result, error
        if is_last(result, error):
            break
    server.stop_stream()


async def _sent(requests: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    for request in requests:
        yield request


async def _cancelled_stream(client: str, module: Any, server: Any) -> dict[str, Any]:
    """A stream that is given up after its first response; the server then answers the next request."""
    request = _stream_request(module, "phi2_stream", "c", True, max_tokens=450)
    seen: list[Any] = []
    if client == "grpc.aio":
        answers = server.stream_infer(_sent([request]))
        async for result, _ in answers:
            seen.append(structure(clients.infer_result(result)))
            break
        seen.append(answers.cancel())
    else:
        arrived: queue.Queue[tuple[Any, Any]] = queue.Queue()
        server.start_stream(lambda result, error: arrived.put((result, error)))
        server.async_stream_infer(**request)
        seen.append(structure(clients.infer_result((await asyncio.to_thread(arrived.get, timeout=_WAIT_S))[0])))
        server.stop_stream(cancel_requests=True)
        while (error := (await asyncio.to_thread(arrived.get, timeout=_WAIT_S))[1]) is None:
            pass
        seen.append([error.message(), error.status()])
    return {"seen": seen, "next": await _answer(module, server)}


async def _cancelled_call(client: str, module: Any, server: Any) -> dict[str, Any]:
    """A unary call that its client gives up; the server then answers the next request."""
    inputs = _inputs(module, _LONG)
    if client == "grpc.aio":
        task = asyncio.ensure_future(server.infer("phi2", inputs))
        await asyncio.sleep(0.1)
        task.cancel()
        seen: Any = type((await asyncio.gather(task, return_exceptions=True))[0]).__name__
    else:
        arrived: queue.Queue[Any] = queue.Queue()
        call = server.async_infer("phi2", inputs, lambda result, error: arrived.put(error))
        await asyncio.sleep(0.1)
        call.cancel()
        error = await asyncio.to_thread(arrived.get, timeout=_WAIT_S)
        seen = [error.message(), error.status()]
    return {"seen": seen, "next": await _answer(module, server)}


async def _late(client: str, module: Any, server: Any) -> dict[str, Any]:
    """A call with a client's time limit that it cannot keep; the server then answers the next request."""
    inputs = _inputs(module, _LONG)
    try:
        await _finished(server.infer("phi2", inputs, client_timeout=0.05))
        seen: Any = "in time"
    except InferenceServerException as error:
        seen = [error.message(), error.status()]
    return {"seen": seen, "next": await _answer(module, server)}


async def _overlapping(client: str, module: Any, server: Any) -> dict[str, Any]:
    """Eight calls at once through tritonclient's own way of overlapping them."""
    asked = [_inputs(module, {"text_input": f"def f{n}(", "max_tokens": n}) for n in range(1, 9)]
    if client.endswith(".aio"):
        results = await asyncio.gather(*(server.infer("phi2", inputs) for inputs in asked))
    elif client == "http":
        results = [call.get_result() for call in [server.async_infer("phi2", inputs) for inputs in asked]]
    else:
        arrived = [queue.Queue[Any]() for _ in asked]
        for inputs, place in zip(asked, arrived, strict=True):
            server.async_infer("phi2", inputs, partial(_put_result, place))
        results = [await asyncio.to_thread(place.get, timeout=_WAIT_S) for place in arrived]
    return {"results": [clients.infer_result(result) for result in results]}


def _put_result(place: queue.Queue[Any], result: Any, error: Any) -> None:
    place.put(error or result)


async def _answer(module: Any, server: Any) -> Any:
    inputs = _inputs(module, {"text_input": _PROMPT, "max_tokens": 2})
    return clients.infer_result(await _finished(server.infer("phi2", inputs)))


async def _finished(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


def _inputs(module: Any, values: dict[str, Any]) -> list[Any]:
    types = {str: "BYTES", int: "INT32", bool: "BOOL"}
    return [clients.infer_input(module, name, [types[type(value)], [1], [value]]) for name, value in values.items()]


_SCENARIOS: dict[str, Callable[[str, Any, Any], Coroutine[Any, Any, dict[str, Any]]]] = {
    "statistics_count": _statistics_count,
    "stream": _stream,
    "cancelled_stream": _cancelled_stream,
    "cancelled_call": _cancelled_call,
    "late": _late,
    "overlapping": _overlapping,
}
