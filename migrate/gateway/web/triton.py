"""Triton's HTTP side: its paths, statuses and error bodies (`src/http_server.cc`; measured on Triton 2.51)."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from migrate.gateway.config import GatewayConfig
from migrate.gateway.core.engine import Engine
from migrate.gateway.core.inference import InferRequest
from migrate.gateway.core.models import Model, Registry
from migrate.gateway.errors import (
    DECOUPLED_OVER_HTTP,
    Code,
    InputError,
    ModelError,
    NotOneResponse,
    TritonError,
    error_body,
)
from migrate.gateway.observe import tracking
from migrate.gateway.web import compression, generate, infer
from migrate.gateway.web.answers import Answer, error_answer, json_answer
from migrate.gateway.web.control import Control, Elsewhere
from migrate.gateway.web.disconnect import ClientGone, EventStream, unless_gone

_log = logging.getLogger("migrate.gateway.web.triton")
_MODEL = re.compile(
    r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[0-9]+))?"
    r"(?:/(?P<action>infer|generate|generate_stream|ready|config|stats|trace/setting))?"
)
_HEADER_SIZE = re.compile(r"\s*([+-]?[0-9]+)", re.ASCII)
_NO_STATUS = 200
_BAD_REQUEST = 400


def build_app(
    engine: Engine,
    registry: Registry,
    config: GatewayConfig,
    is_ready: Callable[[], Awaitable[bool]],
    elsewhere: Elsewhere | None = None,
) -> ASGIApp:
    """The ASGI application for every path of Triton's protocol, 404 for others.

    `is_ready`: whether new requests would be answered now. `elsewhere`: the index of the Triton that keeps the rest.
    """
    return _Triton(engine, config, is_ready, Control(registry, elsewhere))


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    path: str
    headers: Mapping[str, str]
    receive: Receive

    async def body(self) -> bytes:
        """All of it. Raises ClientGone when the client leaves before its end."""
        blocks, more = list[bytes](), True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            blocks.append(message.get("body", b""))
            more = message.get("more_body", False)
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)


class _Triton:
    def __init__(
        self, engine: Engine, config: GatewayConfig, is_ready: Callable[[], Awaitable[bool]], control: Control
    ) -> None:
        self._engine = engine
        self._registry = control.registry
        self._is_ready = is_ready
        self._most_body_bytes = config.limits.max_body_bytes
        self._control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope.get("raw_path", scope["path"].encode()).decode("utf-8", "replace")
        call = _Call(scope["method"], path, headers, receive)
        try:
            answer = await self._answer(call)
        except ClientGone:
            return
        except compression.UnknownEncoding as error:
            answer = json_answer(error.body(), error.status, {"accept-encoding": "gzip, deflate"})
        except TritonError as error:
            answer = error_answer(error)
        except Exception as error:
            _log.exception("a request failed: %s %s", call.method, call.path)
            answer = json_answer(error_body(f"internal error of the gateway: {type(error).__name__}"), 500)
        await answer(scope, receive, send)

    async def _answer(self, call: _Call) -> Answer | EventStream:
        if call.path == "/v2/health/live":
            return _only("GET", call) or Answer()
        if call.path == "/v2/health/ready":
            return _only("GET", call) or Answer(200 if await self._is_ready() else _BAD_REQUEST)
        found = None if call.path == "/v2/models/stats" else _MODEL.fullmatch(call.path)
        if found is None:
            return await self._control.answer(call.method, call.path, call.body)
        name, version, action = found["name"], found["version"] or "", found["action"] or "metadata"
        tracking.name(name, version)
        match action:
            case "infer":
                return _only("POST", call) or await self._infer(call, self._registry.get(name, version))
            case "generate":
                return _only("POST", call) or await self._generate(call, self._registry.get(name, version))
            case "generate_stream":
                return _only("POST", call) or await self._stream(call, self._registry.get(name, version))
            case "trace/setting":
                return await self._control.trace(call.method, call.body, name)
            case _:
                return _only("GET", call) or await self._describe(action, name, version)

    async def _describe(self, action: str, name: str, version: str) -> Answer:
        if action == "ready":
            if self._registry.is_ready(name, version) and await self._is_ready():
                return Answer()
            return json_answer(error_body("Model version not ready"), _BAD_REQUEST)
        if action == "stats":
            return json_answer(_dumps({"model_stats": self._registry.model_statistics(name, version)}))
        model = self._registry.get(name, version)
        return json_answer(_dumps(model.config if action == "config" else model.metadata))

    async def _infer(self, call: _Call, model: Model) -> Answer:
        if not model.answers_infer:
            raise TritonError(Code.UNSUPPORTED, DECOUPLED_OVER_HTTP)
        body = await call.body()
        body = compression.inflated(body, call.headers.get("content-encoding", "identity"), self._most_body_bytes)
        request, form = infer.read(body, model, model.version, _header_size(call.headers))
        response = await unless_gone(call.receive, self._engine.single(request))
        content, json_size = infer.write(response, form)
        headers = {}
        if json_size is not None:
            headers["inference-header-content-length"] = str(json_size)
        if encoding := compression.chosen(call.headers.get("accept-encoding", "")):
            content = compression.deflated(content, encoding)
            headers["content-encoding"] = encoding
        return Answer(200, content, "application/json" if json_size is None else "application/octet-stream", headers)

    async def _generate(self, call: _Call, model: Model) -> Answer:
        request = await self._generate_request(call, model)
        try:
            return json_answer(generate.write(await unless_gone(call.receive, self._engine.single(request))))
        except ModelError as error:
            return error_answer(error, _generate_status(error))

    async def _stream(self, call: _Call, model: Model) -> Answer | EventStream:
        """The first response decides the status; whatever fails later is an event under 200."""
        events = self._events(await self._generate_request(call, model))
        try:
            first = await unless_gone(call.receive, _first(events))
        except ModelError as error:
            answer = error_answer(error, _generate_status(error))
            event = b"data: " + answer.body + b"\n\n"
            return Answer(answer.status, event, "text/event-stream; charset=utf-8", answer.headers)
        return EventStream(first, events)

    async def _generate_request(self, call: _Call, model: Model) -> InferRequest:
        if call.headers.get("content-encoding", "identity") != "identity":
            text = "Unsupported content-encoding, only 'identity' is supported."
            raise TritonError(Code.INVALID_ARG, text)
        return generate.read(await call.body(), model, model.version)

    async def _events(self, request: InferRequest) -> AsyncGenerator[str, None]:
        async with aclosing(self._engine.infer(request)) as responses:
            async for response in responses:
                yield generate.write(response)


async def _first(events: AsyncIterator[str]) -> str:
    try:
        return await anext(events)
    except StopAsyncIteration:
        raise ModelError(Code.INTERNAL, "the server behind the gateway sent an empty answer") from None


def _only(method: str, call: _Call) -> Answer | None:
    return None if call.method == method else json_answer(error_body("Method Not Allowed"), 405)


def _generate_status(error: ModelError) -> int:
    if isinstance(error, NotOneResponse):
        return _NO_STATUS
    return _BAD_REQUEST if isinstance(error, InputError) else error.status


def _header_size(headers: Mapping[str, str]) -> int | None:
    """Inference-Header-Content-Length as C's strtol reads it: 0 for what is no number; None where it is absent."""
    text = headers.get("inference-header-content-length")
    if text is None:
        return None
    digits = _HEADER_SIZE.match(text)
    return int(digits[1]) if digits and len(digits[1]) < 1000 else 0


def _dumps(document: object) -> str:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)
