"""Asks vLLM's /v1/completions, whole or streamed, and maps its errors to Triton's."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import aiohttp

from migrate.gateway.config import UpstreamConfig
from migrate.gateway.errors import ModelError, unknown_model
from migrate.gateway.replies import Chunk

_log = logging.getLogger("migrate.gateway")
# vLLM's server closes connections that were quiet for 5 s; one must never be taken up again at that very moment.
_KEEP_ALIVE_S = 2.0
_CONNECT_TIMEOUT_S = 5.0
_HEALTH_TIMEOUT_S = 2.0
_LONGEST_LINE = 16 * 1024 * 1024


class Upstream:
    """vLLM behind one pool of connections. Use it as an async context manager; leaving it closes the connections.

    `key` is sent as a bearer token, as vLLM asks for where it was started with one.
    """

    def __init__(self, config: UpstreamConfig, key: str = "") -> None:
        self._url = config.url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=config.timeout_s)
        self._session: aiohttp.ClientSession
        self._context: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S)
        self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, headers=self._headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def answers(self) -> bool:
        """Whether vLLM says that its engine is alive."""
        timeout = aiohttp.ClientTimeout(total=_HEALTH_TIMEOUT_S)
        try:
            async with self._session.get(f"{self._url}/health", timeout=timeout) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def context_length(self, model: str) -> int:
        """Tokens that prompt and answer may have together, by vLLM's name of the model; 0 when it is not served."""
        if model not in self._context:
            async with self._exchange("GET", "/v1/models", None) as response:
                served = _parse(await response.read()).get("data") or []
            self._context |= {str(entry.get("id")): int(entry.get("max_model_len") or 0) for entry in served}
        return self._context.get(model, 0)

    async def count_tokens(self, model: str, prompt: str) -> int:
        """Tokens of a prompt, as vLLM counts them; 0 when it does not say."""
        async with self._exchange("POST", "/tokenize", {"model": model, "prompt": prompt}) as response:
            return int(_parse(await response.read()).get("count") or 0)

    async def complete(self, body: Mapping[str, Any], *, model: str) -> Chunk:
        """One whole answer. Raises ModelError, or TritonError where vLLM does not serve the model."""
        async with self._completions(dict(body) | {"stream": False}, model) as response:
            return _chunk(_parse(await response.read()))

    async def stream(self, body: Mapping[str, Any], *, model: str) -> AsyncGenerator[Chunk, None]:
        """The pieces of an answer as vLLM sends them. Closing the iterator closes the request, which stops vLLM's work.

        Raises as `complete` does, also in the middle: when vLLM reports an error or ends before its own end mark.
        """
        async with self._completions(dict(body) | {"stream": True}, model) as response:
            async for data in _events(response):
                if data == b"[DONE]":
                    return
                document = _parse(data)
                if "error" in document:
                    raise _refusal(_error_code(document), _error_text(document), model)
                if document.get("choices"):
                    yield _chunk(document)
        raise ModelError(503, "the server behind the gateway ended its answer early")

    @asynccontextmanager
    async def _completions(self, body: Mapping[str, Any], model: str) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self._exchange("POST", "/v1/completions", body) as response:
            if response.status != 200:
                raise _refusal(response.status, _error_text(_parse(await response.read())), model)
            yield response

    @asynccontextmanager
    async def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._session.request(method, self._url + path, json=body) as response:
                try:
                    yield response
                finally:
                    if not response.content.at_eof():
                        response.close()
        except TimeoutError:
            raise ModelError(503, "the server behind the gateway did not answer in time") from None
        except aiohttp.ClientError as error:
            self._context.clear()  # what answers next may have been started with another length
            _log.warning("upstream: %r", error)
            raise ModelError(503, f"the server behind the gateway is not available: {type(error).__name__}") from None


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The data of each server-sent event. aiohttp's own line reader has a limit that log-probabilities exceed."""
    rest = b""
    async for block in response.content.iter_any():
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            raise ModelError(500, "the server behind the gateway sent a line without end")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _parse(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {"error": data[:200].decode("utf-8", "replace")}


def _chunk(document: Mapping[str, Any]) -> Chunk:
    try:
        choice = document["choices"][0]
        prompt_ids = choice.get("prompt_token_ids")
        return Chunk(
            text=choice["text"],
            token_ids=choice.get("token_ids") or (),
            log_probs=(choice.get("logprobs") or {}).get("token_logprobs") or (),
            finish_reason=choice.get("finish_reason"),
            prompt_tokens=None if prompt_ids is None else len(prompt_ids),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ModelError(500, f"the server behind the gateway sent no completion: {error!r}") from None


def _error_text(document: Mapping[str, Any]) -> str:
    error = document.get("error", document)
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _error_code(document: Mapping[str, Any]) -> int:
    error = document.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else 500


def _refusal(status: int, message: str, model: str) -> Exception:
    """Triton's status for vLLM's: bad requests stay bad requests, a full or absent server is 503, the rest is 500."""
    match status:
        case 400 | 413 | 422:
            return ModelError(400, message)
        case 404:
            _log.error("upstream does not serve the model: %s", message)
            return unknown_model(model)
        case 401 | 403:
            _log.error("upstream refuses the gateway: %s", message)
            return ModelError(500, "the gateway may not use the server behind it")
        case 429 | 502 | 503 | 504:
            return ModelError(503, message)
        case _:
            return ModelError(500, message)
