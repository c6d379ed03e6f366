"""vLLM's own API, as the Triton side needs it: completions whole or streamed, and lengths in tokens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Any, Self

import aiohttp

from migrate.gateway.config import GatewayConfig
from migrate.gateway.errors import Code, ModelError
from migrate.gateway.mapping.replies import Chunk
from migrate.gateway.vllm import completions
from migrate.gateway.vllm.connections import Ask, Connections


class Upstreams:
    """Use it as an async context manager; leaving it closes the connections.

    `key` is sent as a bearer token, as vLLM asks for where it was started with one.
    """

    def __init__(self, config: GatewayConfig, key: str = "") -> None:
        self.key = key
        self.is_draining = False
        self.connections = Connections(config)
        self._retry_after_s = config.queue.retry_after_s
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._lengths: dict[str, int] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        await self.connections.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in list(self._asking.values()):
            task.cancel()
        await self.connections.close()

    async def answers(self) -> bool:
        """Whether any vLLM server says that its engine is alive; never while the gateway is stopping."""
        if self.is_draining:
            return False
        asked = [asyncio.ensure_future(self.connections.is_healthy(server)) for server in self.connections.servers.all]
        try:
            for answer in asyncio.as_completed(asked):
                if await answer:
                    return True
            return False
        finally:
            for task in asked:
                task.cancel()

    async def context_length(self, model: str) -> int:
        """Tokens that prompt and answer may have together, by vLLM's name of the model; 0 when it is not served."""
        if model not in self._lengths:
            if model not in self._asking:
                self._asking[model] = asyncio.create_task(self._ask_lengths(model))
            await asyncio.shield(self._asking[model])
        return self._lengths.get(model, 0)

    async def missing(self, model: str) -> str:
        """Why vLLM does not serve a model, by its own name of it; empty when it does."""
        self._lengths.pop(model, None)
        try:
            await self.context_length(model)
        except ModelError as error:
            return error.message
        return "" if model in self._lengths else f"no server behind the gateway serves the model '{model}'"

    async def count_tokens(self, model: str, prompt: str) -> int:
        """Tokens of a prompt, as vLLM counts them; 0 when it does not say."""
        body = _json({"model": model, "prompt": prompt})
        ask = Ask("POST", "/tokenize", model, body, self._headers, is_control=True)
        async with self.connections.exchange(ask) as response:
            return int((await completions.document(response)).get("count") or 0)

    async def complete(self, body: Mapping[str, Any], *, model: str) -> Chunk:
        """One whole answer. `body` is that of /v1/completions, `model` is Triton's name, for the texts of errors.

        Raises ModelError, or TritonError where vLLM does not serve the model.
        """
        async with self._completions({**body, "stream": False}, model) as response:
            return completions.chunk(await completions.document(response), model)

    async def stream(self, body: Mapping[str, Any], *, model: str) -> AsyncGenerator[Chunk, None]:
        """The pieces of an answer as vLLM sends them. Closing the generator closes the request, which stops vLLM.

        Raises as `complete` does, also in the middle: when vLLM reports an error or ends before its own end mark.
        """
        async with self._completions({**body, "stream": True}, model) as response:
            if response.content_type != "text/event-stream":
                completions.chunk(await completions.document(response), model)
                raise ModelError(Code.INTERNAL, f"the server behind the gateway answered with {response.content_type}")
            async with aclosing(completions.events(response)) as events:
                async for data in events:
                    if data == b"[DONE]":
                        return
                    answer = completions.parse(data) or {"error": data[:200].decode("utf-8", "replace")}
                    if answer.get("choices") or "error" in answer:
                        yield completions.chunk(answer, model)
            raise ModelError(Code.UNAVAILABLE, "the server behind the gateway ended its answer early")

    @asynccontextmanager
    async def _completions(self, body: Mapping[str, Any], model: str) -> AsyncIterator[aiohttp.ClientResponse]:
        ask = Ask("POST", "/v1/completions", str(body["model"]), _json(body), self._headers)
        try:
            async with self.connections.exchange(ask) as response:
                if response.status != 200:
                    answer = await completions.document(response)
                    retry_after = response.headers.get("Retry-After")
                    raise completions.refusal(response.status, answer, model, retry_after, self._retry_after_s)
                yield response
        except ModelError as error:
            if error.code is not Code.INVALID_ARG:
                self._lengths.clear()  # what answers next may have been started with another length
            raise

    async def _ask_lengths(self, model: str) -> None:
        ask = Ask("GET", "/v1/models", model, headers=self._headers, is_control=True)
        try:
            async with self.connections.exchange(ask) as response:
                served = (await completions.document(response)).get("data")
        finally:
            del self._asking[model]
        for entry in served if isinstance(served, list) else ():
            if isinstance(entry, dict):
                self._lengths[str(entry.get("id"))] = int(entry.get("max_model_len") or 0)


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _json(document: Mapping[str, Any]) -> bytes:
    return _encode(document).encode("utf-8")
