"""The one way from a request to vLLM and back, for every protocol."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from migrate.gateway.core.inference import InferRequest, InferResponse
from migrate.gateway.core.models import Model, Registry
from migrate.gateway.core.validation import rows
from migrate.gateway.errors import Code, ModelError, NotOneResponse, TritonError
from migrate.gateway.mapping.context import Counter, fitted
from migrate.gateway.mapping.question import Inputs
from migrate.gateway.mapping.replies import Chunk, Outputs, Reply, tensors
from migrate.gateway.mapping.styles import ask
from migrate.gateway.observe import metrics
from migrate.gateway.observe.metrics import Failure


class Pool(Counter, Protocol):
    """The vLLM servers; `upstreams.Upstreams` is one."""

    async def complete(self, body: Mapping[str, Any], *, model: str) -> Chunk: ...

    def stream(self, body: Mapping[str, Any], *, model: str) -> AsyncGenerator[Chunk, None]: ...


class Engine:
    """Answers requests for the models of a registry; any number of them at once."""

    def __init__(self, registry: Registry, pool: Pool) -> None:
        self._registry = registry
        self._pool = pool

    async def infer(self, request: InferRequest) -> AsyncGenerator[InferResponse, None]:
        """The model's responses, exactly one unless it is decoupled. Closing the generator stops vLLM's work.

        Raises TritonError when the request is refused, ModelError when the model or vLLM fails.
        """
        model = self._registry.get(request.model, request.version)
        batch = rows(model, request)
        counted = _Counted(model, len(batch))
        try:
            replies = [Reply(ask(Inputs(model.name, row), request.parameters, model.settings)) for row in batch]
            async with aclosing(self._answers(model, replies)) as answers:
                async for outputs, is_last in answers:
                    counted.responded()
                    found = tensors(outputs, is_batched=model.max_batch_size > 0, asked=request.outputs)
                    yield InferResponse(model.name, model.version, request.id, found, is_last=is_last)
        except BaseException as error:
            counted.failed(error)
            raise
        counted.succeeded()

    async def single(self, request: InferRequest) -> InferResponse:
        """The only response. Raises NotOneResponse when the model gives none or several, else as `infer` does."""
        async with aclosing(self.infer(request)) as responses:
            found = await anext(responses, None)
            if found is None or await anext(responses, None) is not None:
                raise NotOneResponse
            return found

    async def _answers(
        self, model: Model, replies: Sequence[Reply]
    ) -> AsyncGenerator[tuple[list[Outputs], bool], None]:
        is_streamed = model.is_decoupled and any(reply.question.is_streamed for reply in replies)
        if not is_streamed:
            yield await self._complete(model.name, replies), True
        elif len(replies) > 1:
            raise TritonError(Code.UNSUPPORTED, "input 'stream' is not supported for more than one prompt at once")
        else:
            reply = replies[0]
            body = await fitted(reply.question.body, self._pool)
            async with aclosing(self._pool.stream(body, model=model.name)) as chunks:
                async for chunk in chunks:
                    yield [reply.outputs(chunk)], chunk.finish_reason is not None

    async def _complete(self, model: str, replies: Sequence[Reply]) -> list[Outputs]:
        """The answers to all prompts of a batch, asked for at once; the first error ends the others."""
        if len(replies) == 1:
            return [await self._one(model, replies[0])]
        tasks = [asyncio.create_task(self._one(model, reply)) for reply in replies]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, model: str, reply: Reply) -> Outputs:
        body = await fitted(reply.question.body, self._pool)
        return reply.outputs(await self._pool.complete(body, model=model))


class _Counted:
    """One request in the model's statistics and in the metrics."""

    __slots__ = ("_batch_size", "_begun_ns", "_inference", "_statistics")

    def __init__(self, model: Model, batch_size: int) -> None:
        self._statistics = model.statistics
        self._batch_size = batch_size
        self._begun_ns = time.monotonic_ns()
        self._inference = metrics.begin(model.name, model.version)

    def responded(self) -> None:
        self._inference.responded()

    def succeeded(self) -> None:
        self._inference.succeeded(self._batch_size)
        self._statistics.succeeded(self._batch_size, time.monotonic_ns() - self._begun_ns)

    def failed(self, error: BaseException) -> None:
        self._inference.failed(_reason(error))
        self._statistics.failed(time.monotonic_ns() - self._begun_ns)


def _reason(error: BaseException) -> Failure:
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return Failure.CANCELED
    if isinstance(error, ModelError):
        return Failure.REJECTED if error.code is Code.UNAVAILABLE else Failure.BACKEND
    return Failure.OTHER
