"""ModelInfer, and ModelStreamInfer with its many requests on one stream."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from grpc.aio import BaseError
from tritonclient.grpc import service_pb2

from migrate.gateway.core.engine import Engine
from migrate.gateway.core.inference import InferRequest
from migrate.gateway.core.models import Model, Registry
from migrate.gateway.errors import DECOUPLED_OVER_GRPC, Code, ModelError, TritonError
from migrate.gateway.observe import log, tracking
from migrate.gateway.rpc import messages
from migrate.gateway.rpc.calls import Context, SlowClient, header
from migrate.gateway.rpc.passthrough import Forwarded, Passthrough

_log = logging.getLogger("migrate.gateway.grpc")
# A stream that has so many requests running is not read further, until one of them is over.
_MAX_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Inference:
    """Both calls; a stream whose client takes nothing for `write_timeout_s` seconds is cut off."""

    engine: Engine
    registry: Registry
    passthrough: Passthrough
    write_timeout_s: float

    async def infer(self, data: bytes, context: Context) -> bytes:
        """ModelInfer: the one response of a model. Raises TritonError, for one that is decoupled as Triton does."""
        message = messages.parse(service_pb2.ModelInferRequest, data)
        tracking.name(message.model_name, message.model_version)
        if self.passthrough.takes(message.model_name):
            return await self.passthrough.forward("ModelInfer", data, context)
        if not self.model_of(message).answers_infer:
            raise TritonError(Code.UNSUPPORTED, DECOUPLED_OVER_GRPC)
        answer = service_pb2.ModelInferResponse()
        messages.fill(answer, await self.engine.single(messages.infer_request(message)))
        return messages.written(answer)

    async def infer_stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """ModelStreamInfer: every request at once, its errors in the stream; ends when the client's last is answered.

        With the metadata `triton_grpc_error: true` an error of a model ends the stream and is its status.
        """
        await _Stream(self, context).run(requests)

    def model_of(self, message: Any) -> Model:
        """The model that the message is for. Raises TritonError."""
        return self.registry.get(message.model_name, messages.version(message.model_version))


class _Stream:
    def __init__(self, inference: Inference, context: Context) -> None:
        self._inference = inference
        self._context = context
        self._request_id = log.accept(header(context, "x-request-id"))
        self._trace_parent = header(context, "traceparent")
        self._errors_are_statuses = header(context, "triton_grpc_error") == "true"
        self._places = asyncio.Semaphore(_MAX_AT_ONCE)
        self._writing = asyncio.Lock()
        self._turn = asyncio.Event()
        self._turn.set()
        self._waits_since_s: float | None = None
        self._forwarded: Forwarded | None = None

    async def run(self, requests: AsyncIterator[bytes]) -> None:
        self._context.set_trailing_metadata((("x-request-id", self._request_id),))
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._watch())
                async with asyncio.TaskGroup() as answers:
                    await self._begin_all(requests, answers)
                watching.cancel()
        except BaseExceptionGroup as group:
            raise _first(group) from None

    async def _watch(self) -> None:
        """Raises SlowClient when a response waits too long for the client; a timer for each would cost more."""
        limit_s = self._inference.write_timeout_s
        while True:
            await asyncio.sleep(limit_s / 4)
            if self._waits_since_s is not None and time.monotonic() - self._waits_since_s > limit_s:
                raise SlowClient

    async def _begin_all(self, requests: AsyncIterator[bytes], tasks: asyncio.TaskGroup) -> None:
        async for data in requests:
            try:
                message = messages.parse(service_pb2.ModelInferRequest, data)
            except TritonError:
                break  # Triton takes what it cannot read for the client's last message.
            if self._inference.passthrough.takes(message.model_name):
                await self._forward(data, tasks)
                continue
            await self._places.acquire()
            before = None if self._is_decoupled(message) else self._turn
            done = asyncio.Event()
            self._turn = self._turn if before is None else done
            tasks.create_task(self._answer(message, before, done))
        if self._forwarded is not None:
            await self._forwarded.end()

    async def _forward(self, data: bytes, tasks: asyncio.TaskGroup) -> None:
        if self._forwarded is None:
            self._forwarded = self._inference.passthrough.stream(self._context)
            tasks.create_task(self._forwarded.copy_to(self._write))
        await self._forwarded.send(data)

    def _is_decoupled(self, message: Any) -> bool:
        """Whether its responses go out when they come; those of the other models keep the order of the requests."""
        try:
            return self._inference.model_of(message).is_decoupled
        except TritonError:
            return True

    async def _answer(self, message: Any, before: asyncio.Event | None, done: asyncio.Event) -> None:
        tracked = tracking.begin("grpc", "ModelStreamInfer", self._request_id, self._trace_parent)
        tracked.name(message.model_name, message.model_version)
        status = Code.CANCELLED.grpc
        try:
            await self._respond(message, before)
            status = "OK"
        except TritonError as error:
            status = error.code.grpc
            await self._tell(error, message, before)
        except BaseError:
            raise
        except Exception as error:
            status = Code.INTERNAL.grpc
            _log.exception("a request of a stream failed")
            text = f"internal error of the gateway: {type(error).__name__}"
            await self._tell(ModelError(Code.INTERNAL, text), message, before)
        finally:
            tracked.end(status)
            done.set()
            self._places.release()

    async def _respond(self, message: Any, before: asyncio.Event | None) -> None:
        model = self._inference.model_of(message)
        request = messages.infer_request(message)
        is_over = await self._write_responses(request, model, before)
        if not is_over and messages.wants_empty_final(message):
            await self._write(messages.stream_end(request.id, request.model))

    async def _write_responses(self, request: InferRequest, model: Model, before: asyncio.Event | None) -> bool:
        """Whether the last one was marked as such; an error that comes after it is no longer the client's concern."""
        is_final = False
        try:
            async with aclosing(self._inference.engine.infer(request)) as responses:
                async for response in responses:
                    if before is not None:
                        await before.wait()
                    is_final = not model.is_decoupled or (response.is_last and not model.settings.ends_apart)
                    await self._write(messages.stream_response(response, is_final=is_final))
        except TritonError as error:
            if not is_final:
                raise
            _log.warning("after the last response: %s", error.message)
        return is_final

    async def _tell(self, error: TritonError, message: Any, before: asyncio.Event | None) -> None:
        if before is not None:
            await before.wait()
        failed = message.model_name if isinstance(error, ModelError) else ""
        if failed and self._errors_are_statuses:
            raise error
        await self._write(messages.stream_error(error, message.id, failed))

    async def _write(self, data: bytes) -> None:
        """One message at a time; the wait for a slow client is this stream's alone."""
        async with self._writing:
            self._waits_since_s = time.monotonic()
            await self._context.write(data)
            self._waits_since_s = None


def _first(error: BaseException) -> BaseException:
    """What went wrong first, out of groups in groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
