"""The server: Triton's routes, statuses and error bodies around one request to vLLM."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from migrate.gateway import fields
from migrate.gateway.config import GatewayConfig
from migrate.gateway.context import fitted
from migrate.gateway.disconnect import ClientGone, EventStream, unless_gone
from migrate.gateway.errors import (
    NOT_ONE_RESPONSE,
    ModelError,
    TritonError,
    error_body,
    unknown_model,
    unknown_version,
)
from migrate.gateway.replies import Reply
from migrate.gateway.styles import STYLES
from migrate.gateway.upstream import Upstream

# Nobody reads it; nginx logs the same number for a client that closed its request.
_CLIENT_CLOSED_REQUEST = 499


def build_app(config: GatewayConfig, key: str = "") -> Starlette:
    """The ASGI application; `key` is vLLM's. Its connections to vLLM live as long as its lifespan."""
    upstream = Upstream(config.upstream, key)
    gateway = _Gateway(config, upstream)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with upstream:
            yield

    routes = [_route("/v2/health/live", gateway.live, "GET"), _route("/v2/health/ready", gateway.ready, "GET")]
    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version:int}"):
        routes.append(_route(f"{model}/generate", gateway.generate, "POST"))
        routes.append(_route(f"{model}/generate_stream", gateway.generate_stream, "POST"))
    handlers: dict[Any, Any] = {
        HTTPException: _refuse_path,
        TritonError: _refuse,
        ClientGone: _nobody_there,
        Exception: _own_fault,
    }
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
    app.router.redirect_slashes = False
    return app


def _route(path: str, endpoint: Any, method: str) -> Route:
    route = Route(path, endpoint, methods=[method])
    route.methods = {method}  # Starlette adds HEAD to GET; Triton answers it with 405
    return route


@dataclass(frozen=True, slots=True)
class _Gateway:
    config: GatewayConfig
    upstream: Upstream

    async def live(self, _: Request) -> Response:
        return Response(media_type="text/plain")

    async def ready(self, _: Request) -> Response:
        return Response(status_code=200 if await self.upstream.answers() else 400, media_type="text/plain")

    async def generate(self, request: Request) -> Response:
        reply = await self._read(request)
        return _json(await unless_gone(request.receive, self._single(reply)))

    async def generate_stream(self, request: Request) -> EventStream:
        """The first response decides the status; whatever fails later is an event under 200."""
        try:
            reply = await self._read(request)
            responses = self._responses(reply)
            first = await unless_gone(request.receive, _first(responses))
        except ModelError as error:
            return EventStream(error.body(), status=error.status)
        return EventStream(first, responses)

    async def _read(self, request: Request) -> Reply:
        name, version = request.path_params["model"], request.path_params.get("version")
        model = self.config.models.get(name)
        if model is None:
            raise unknown_model(name)
        if version is not None and str(version) != model.version:
            raise unknown_version(name, version)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise TritonError(400, "Unsupported content-encoding, only 'identity' is supported.")
        style = STYLES[model.style]
        found = fields.read(await request.body(), model=name, kinds=style.inputs)
        return Reply(name, model.version, found.request_id, style.ask(found, model))

    async def _single(self, reply: Reply) -> str:
        """The only response of the model; a streaming request qualifies when it results in one piece."""
        async with aclosing(self._responses(reply)) as responses:
            answer = await anext(responses, None)
            if answer is None or await anext(responses, None) is not None:
                raise ModelError(500, NOT_ONE_RESPONSE)
            return answer

    async def _responses(self, reply: Reply) -> AsyncGenerator[str, None]:
        body = await fitted(reply.question.body, self.upstream)
        if not reply.question.is_streamed:
            yield reply.write(await self.upstream.complete(body, model=reply.model))
            return
        async with aclosing(self.upstream.stream(body, model=reply.model)) as chunks:
            async for chunk in chunks:
                yield reply.write(chunk)


async def _first(responses: AsyncGenerator[str, None]) -> str:
    try:
        return await anext(responses)
    except StopAsyncIteration:
        raise ModelError(500, "the server behind the gateway sent an empty answer") from None


def _json(body: str, status: int = 200) -> Response:
    return Response(body, status_code=status, media_type="application/json")


async def _refuse(_: Request, error: TritonError) -> Response:
    return _json(error.body(), error.status)


async def _refuse_path(_: Request, error: HTTPException) -> Response:
    return _json(error_body(error.detail), error.status_code)


async def _nobody_there(_: Request, __: ClientGone) -> Response:
    return Response(status_code=_CLIENT_CLOSED_REQUEST)


async def _own_fault(_: Request, error: Exception) -> Response:
    return _json(error_body(f"internal error of the gateway: {type(error).__name__}"), 500)
