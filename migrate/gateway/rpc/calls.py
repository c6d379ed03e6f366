"""What every gRPC call has in common: it is tracked, its errors become a status, and messages go over the wire raw."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NoReturn

import grpc
from grpc import StatusCode
from grpc.aio import AioRpcError, BaseError, InternalError, ServicerContext

from migrate.gateway.errors import Code, TritonError
from migrate.gateway.observe import tracking

_log = logging.getLogger("migrate.gateway.grpc")
# gRPC's clients give up on headers above 8,192 bytes, and what is not ASCII takes three bytes a byte.
_MAX_DETAILS_BYTES = 2_500
STATUS: Mapping[Code, StatusCode] = {code: StatusCode[code.grpc] for code in Code}

Context = ServicerContext[Any, Any]
UnaryWork = Callable[[bytes, Context], Awaitable[bytes]]
StreamWork = Callable[[AsyncIterator[bytes], Context], Awaitable[None]]


class SlowClient(Exception):
    """The client does not read what it asked for."""


class Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Calls by path; any other path is UNIMPLEMENTED without a text, as on Triton."""

    def __init__(self, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        self._handlers = handlers
        self._unknown = grpc.stream_stream_rpc_method_handler(_unknown)

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of one call."""
        return self._handlers.get(call.method, self._unknown)


def unary(operation: str, work: UnaryWork) -> grpc.RpcMethodHandler[Any, Any]:
    """A call of one message and one answer. Whatever `work` raises becomes the call's status."""

    async def handle(data: bytes, context: Context) -> bytes:
        tracked = _begin(operation, context)
        status = StatusCode.CANCELLED
        try:
            answer = await work(data, context)
            status = StatusCode.OK
            return answer
        except Exception as error:
            status, details = status_of(error)
            await _abort(context, error, status, details)
        finally:
            tracked.end(status.name)

    return grpc.unary_unary_rpc_method_handler(handle)


def stream(work: StreamWork) -> grpc.RpcMethodHandler[Any, Any]:
    """A call of many messages both ways; `work` tracks its requests itself."""

    async def handle(messages: AsyncIterator[bytes], context: Context) -> None:
        try:
            await work(messages, context)
        except Exception as error:
            await _abort(context, error, *status_of(error))

    return grpc.stream_stream_rpc_method_handler(handle)


def header(context: Context, name: str) -> str | None:
    """The first value that the client sent under this name in its metadata."""
    for key, value in context.invocation_metadata() or ():
        if key == name:
            return value if isinstance(value, str) else value.decode("latin-1")
    return None


async def _abort(context: Context, error: Exception, status: StatusCode, details: str) -> NoReturn:
    try:
        await context.abort(status, details, _trailing(context, error))
    except InternalError:
        raise asyncio.CancelledError from None  # The client has left: there is nobody to tell.


def status_of(error: Exception) -> tuple[StatusCode, str]:
    """Status and text of an error, the text cut to what fits into gRPC's headers; what is no answer is logged."""
    if isinstance(error, TritonError):
        return STATUS[error.code], _fitting(error.message)
    if isinstance(error, SlowClient):
        return StatusCode.DEADLINE_EXCEEDED, "the client did not read its responses"
    if isinstance(error, AioRpcError):
        return error.code(), _fitting(error.details() or "")
    if not isinstance(error, BaseError):
        _log.error("a call failed", exc_info=error)
    return StatusCode.INTERNAL, f"internal error of the gateway: {type(error).__name__}"


def _fitting(text: str) -> str:
    if text.isascii() and len(text) <= _MAX_DETAILS_BYTES:
        return text
    return text.encode("utf-8", "replace")[:_MAX_DETAILS_BYTES].decode("utf-8", "ignore")


def _trailing(context: Context, error: Exception) -> tuple[tuple[str, str], ...]:
    """What was to be sent anyway, and when to come again: in words for people, and as gRPC's own clients read it."""
    trailing = tuple(context.trailing_metadata() or ())
    if isinstance(error, TritonError) and error.retry_after_s is not None:
        wait_s = error.retry_after_s
        trailing += (("retry-after", f"{wait_s:g}"), ("grpc-retry-pushback-ms", f"{wait_s * 1000:.0f}"))
    return trailing


def _begin(operation: str, context: Context) -> tracking.Tracked:
    tracked = tracking.begin("grpc", operation, header(context, "x-request-id"), header(context, "traceparent"))
    context.set_trailing_metadata((("x-request-id", tracked.request_id),))
    return tracked


async def _unknown(_: AsyncIterator[bytes], context: Context) -> None:
    await context.abort(StatusCode.UNIMPLEMENTED, "")
