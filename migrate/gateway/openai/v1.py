"""The /v1 side: vLLM's OpenAI API, passed on byte for byte to clients that may use it.

A request is checked for what the gateway knows (key, limits, size, JSON, model); everything else is for vLLM to judge.
The gateway's own key for vLLM is lent to clients with a key of the gateway. Without such keys, clients send vLLM's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import aiohttp
from starlette.types import Message, Receive, Scope, Send

from migrate.gateway.config import GatewayConfig
from migrate.gateway.errors import Code, ModelError, TritonError
from migrate.gateway.observe import metrics, tracking
from migrate.gateway.openai.keys import Keys
from migrate.gateway.openai.limits import Limits
from migrate.gateway.vllm import completions
from migrate.gateway.vllm.connections import Ask, Connections
from migrate.gateway.web import relay
from migrate.gateway.web.disconnect import ClientGone, unless_gone
from migrate.gateway.web.refusals import OpenAiError

# vLLM's switches for its operator: they load code and weights for everybody.
_OPERATORS_PATHS = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
_ENDS_WITH_DONE = frozenset({"/v1/completions", "/v1/chat/completions"})
_DONE = b"[DONE]"
# Room for the end mark and the line breaks after it.
_TAIL = 32
_ENDED_EARLY = "the server behind the gateway ended its answer early"


class OpenAiSide:
    """An ASGI application; `key` is vLLM's own, `config` gives the configuration as it is now."""

    def __init__(
        self, config: Callable[[], GatewayConfig], connections: Connections, keys: Keys, key: str = ""
    ) -> None:
        self._connections = connections
        self._keys = keys
        self._key = key
        self._config = config
        self._limits = Limits(config().openai, config().workers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An answer that has begun cannot become an error any more: it ends without its end."""
        has_begun = False

        async def answer(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            with self._limits.admitted(self._owner(scope)):
                ask = self._checked(scope, await _body(scope, receive))
                await unless_gone(receive, self._answer(ask, answer))
        except ClientGone:
            return
        except (OpenAiError, TritonError) as error:
            if not has_begun:
                await _refuse(error if isinstance(error, OpenAiError) else OpenAiError.of(error), send)

    def _owner(self, scope: Scope) -> str:
        if scope["path"].rstrip("/") in _OPERATORS_PATHS:
            raise OpenAiError(403, "adapters are loaded and unloaded at vLLM itself", "operators_only")
        if not self._keys:
            return ""
        owner = self._keys.owner(_header(scope, b"authorization"))
        if owner is None:
            metrics.refused("key")
            raise OpenAiError(401, "the API key is missing or wrong", "invalid_api_key")
        tracking.note(key=owner)
        return owner

    def _checked(self, scope: Scope, body: bytes) -> Ask:
        without = frozenset({b"authorization"}) if self._keys else frozenset[bytes]()
        headers = relay.onward(scope["headers"], without=without | {b"content-length"})
        if self._keys and self._key:
            headers["authorization"] = f"Bearer {self._key}"
        ask = Ask(scope["method"], relay.target(scope), headers=headers)
        if scope["method"] in {"GET", "HEAD", "DELETE", "OPTIONS"} and not body:
            return ask
        document = _document(scope, body)
        model = document.get("model")
        if not isinstance(model, str) or not model:
            raise OpenAiError(400, "'model' must be the name of a model", "missing_model")
        if model not in self._config().served_models:
            raise OpenAiError(404, f"the model '{model}' does not exist", "model_not_found")
        metrics.know(model)
        tracking.name(model)
        tracking.prompt(document.get("prompt", document.get("messages")))
        return replace(ask, body=body, model=model)

    async def _answer(self, ask: Ask, send: Send) -> None:
        if ask.target == "/v1/models":
            groups = {min(server.models, default="") for server in self._config().servers}
            if len(groups) > 1:
                await self._answer_models(ask, sorted(groups), send)
                return
        async with self._connections.exchange(ask) as response:
            first = await response.content.readany()
            status = _judged(ask, response, first)
            await relay.start(response, send, status)
            await self._answer_rest(ask, response, first, send)

    async def _answer_rest(self, ask: Ask, response: aiohttp.ClientResponse, first: bytes, send: Send) -> None:
        """Where a stream breaks off or has no end mark, an event says so."""
        is_stream = response.content_type == "text/event-stream"
        block, tail = first, b""
        try:
            while block:
                tail = (tail + block)[-_TAIL:]
                await relay.block(send, block)
                block = await response.content.readany()
            if is_stream and ask.target.partition("?")[0] in _ENDS_WITH_DONE and _DONE not in tail:
                raise ModelError(Code.UNAVAILABLE, _ENDED_EARLY)
        except (ModelError, TimeoutError, aiohttp.ClientError):
            if is_stream:
                event = OpenAiError(502, _ENDED_EARLY, "upstream_error").body()
                await relay.end(send, b"\n\ndata: " + event + b"\n\n")
            raise
        await relay.end(send)

    async def _answer_models(self, ask: Ask, groups: Collection[str], send: Send) -> None:
        """The models of every group of servers, as one list; a group is asked for by one of its models."""
        data: list[Any] = []
        for model in groups:
            async with self._connections.exchange(replace(ask, model=model, is_control=True)) as response:
                served = (await completions.document(response)).get("data")
                data += served if isinstance(served, list) else []
        await _send_json(send, 200, json.dumps({"object": "list", "data": data}).encode("utf-8"))


async def _body(scope: Scope, receive: Receive) -> bytes:
    if _header(scope, b"content-encoding") not in {b"", b"identity"}:
        raise OpenAiError(415, "compressed bodies are not supported", "unsupported_content_encoding")
    blocks = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        blocks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(blocks)


def _document(scope: Scope, body: bytes) -> dict[str, Any]:
    media_type = _header(scope, b"content-type").partition(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise OpenAiError(415, "Content-Type must be application/json", "unsupported_media_type")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise OpenAiError(400, f"the body is not JSON: {error}", "invalid_json") from None
    if not isinstance(document, dict):
        raise OpenAiError(400, "the body must be a JSON object", "invalid_json")
    return document


def _judged(ask: Ask, response: aiohttp.ClientResponse, first: bytes) -> int:
    """The status to give. Raises OpenAiError where the answer is not what vLLM gives."""
    kind = response.content_type
    if kind == "text/html" or (response.status >= 500 and kind != "application/json"):
        raise OpenAiError(502, f"the server behind the gateway answered {response.status} with {kind}", "bad_gateway")
    if response.status != 200:
        return response.status
    if not first and ask.method == "POST":
        raise OpenAiError(502, "the server behind the gateway sent an empty answer", "bad_gateway")
    if kind == "application/json" and first.lstrip()[:20].replace(b" ", b"").startswith(b'{"error":'):
        error = (completions.parse(first) or {}).get("error")
        code = error.get("code") if isinstance(error, dict) else None
        return code if isinstance(code, int) and 400 <= code <= 599 else 502
    return 200


def _header(scope: Scope, wanted: bytes) -> bytes:
    for name, value in scope["headers"]:
        if name == wanted:
            found: bytes = value
            return found
    return b""


async def _refuse(error: OpenAiError, send: Send) -> None:
    more = []
    if error.retry_after_s is not None:
        more.append((b"retry-after", str(max(1, round(error.retry_after_s + 0.499))).encode()))
    if error.status == 401:
        more.append((b"www-authenticate", b"Bearer"))
    await _send_json(send, error.status, error.body(), more)


async def _send_json(send: Send, status: int, body: bytes, more: Collection[tuple[bytes, bytes]] = ()) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await relay.end(send, body)
