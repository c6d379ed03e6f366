"""Reads what vLLM's /v1/completions answers, whole or as events, and maps its errors to Triton's codes."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import aiohttp

from migrate.gateway.errors import Code, ModelError, TritonError, unknown_model
from migrate.gateway.mapping.replies import Chunk

_log = logging.getLogger("migrate.gateway.vllm.upstreams")
_LONGEST_ANSWER = 64 * 1024 * 1024
_LONGEST_LINE = 16 * 1024 * 1024
_STATUS_OF_AN_ERROR_WITHOUT_ONE = 500


async def document(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The JSON object of an answer; `{"error": …}` when it is something else. Raises ModelError when it has no end."""
    body = bytearray()
    async for block in response.content.iter_any():
        body += block
        if len(body) > _LONGEST_ANSWER:
            raise ModelError(Code.INTERNAL, "the server behind the gateway sent an answer without end")
    found = parse(bytes(body))
    return {"error": f"the server behind the gateway answered with {response.content_type}"} if found is None else found


async def events(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """The data of each server-sent event. aiohttp's own line reader has a limit that log-probabilities exceed."""
    rest = b""
    async for block in response.content.iter_any():
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            raise ModelError(Code.INTERNAL, "the server behind the gateway sent a line without end")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def parse(data: bytes) -> dict[str, Any] | None:
    """A JSON object, or None for anything else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def chunk(answer: Mapping[str, Any], model: str) -> Chunk:
    """A completion, whole or a piece of it. Raises what `refusal` makes of an error that came under status 200."""
    if "error" in answer and not answer.get("choices"):
        raise refusal(_error_code(answer), answer, model)
    try:
        choice = answer["choices"][0]
        prompt_ids = choice.get("prompt_token_ids")
        return Chunk(
            text=choice["text"],
            token_ids=choice.get("token_ids") or (),
            log_probs=(choice.get("logprobs") or {}).get("token_logprobs") or (),
            finish_reason=choice.get("finish_reason"),
            prompt_tokens=None if prompt_ids is None else len(prompt_ids),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ModelError(Code.INTERNAL, f"the server behind the gateway sent no completion: {error!r}") from None


def refusal(
    status: int, answer: Mapping[str, Any], model: str, retry_after: str | None = None, default_s: float | None = None
) -> TritonError:
    """Triton's code for vLLM's status: bad requests stay bad requests, a full or absent server is UNAVAILABLE.

    `retry_after`: vLLM's header in seconds, `default_s` where it has none.
    """
    message = _error_text(answer)
    match status:
        case 400 | 413 | 422:
            return ModelError(Code.INVALID_ARG, message)
        case 404:
            _log.error("upstream does not serve the model: %s", message)
            return unknown_model(model)
        case 401 | 403:
            _log.error("upstream refuses the gateway: %s", message)
            return ModelError(Code.INTERNAL, "the gateway may not use the server behind it")
        case 429 | 502 | 503 | 504:
            seconds = float(retry_after) if retry_after and retry_after.isdecimal() else default_s
            return ModelError(Code.UNAVAILABLE, message, seconds)
        case _:
            return ModelError(Code.INTERNAL, message)


def _error_text(answer: Mapping[str, Any]) -> str:
    error = answer.get("error", answer)
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _error_code(answer: Mapping[str, Any]) -> int:
    error = answer.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else _STATUS_OF_AN_ERROR_WITHOUT_ONE
