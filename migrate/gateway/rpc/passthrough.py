"""Models that stay on Triton: their calls go there and back as bytes, never decoded on the way back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from migrate.gateway.core.models import Registry
from migrate.gateway.observe import log
from migrate.gateway.rpc.calls import Context

SERVICE = "/inference.GRPCInferenceService/"
_UNLIMITED = (("grpc.max_send_message_length", 2**31 - 1), ("grpc.max_receive_message_length", 2**31 - 1))
# What gRPC itself puts into the metadata of a call; the call to Triton gets its own.
_NOT_FORWARDED = ("grpc-", ":", "user-agent", "te", "content-type")


class Passthrough:
    """`target` is Triton's HOST:PORT, empty where every model has moved. Make it in the running loop."""

    def __init__(self, target: str, registry: Registry) -> None:
        self._registry = registry
        self._channel: Any = grpc.aio.insecure_channel(target, options=_UNLIMITED) if target else None

    @property
    def is_on(self) -> bool:
        """Whether there is a Triton to pass anything to."""
        return self._channel is not None

    def takes(self, model: str) -> bool:
        """Whether Triton keeps this model: all that the gateway does not know."""
        return bool(self._channel and model and all(row["name"] != model for row in self._registry.index()))

    async def forward(self, method: str, data: bytes, context: Context) -> bytes:
        """Triton's answer, where `is_on`; ends with the client's call. Raises grpc.aio.AioRpcError as Triton does."""
        call: Any = self._channel.unary_unary(SERVICE + method)
        answer: bytes = await call(data, metadata=_metadata(context), timeout=context.time_remaining())
        return answer

    def stream(self, context: Context) -> Forwarded:
        """A stream to Triton, where `is_on`, for the requests of one client's stream."""
        call: Any = self._channel.stream_stream(f"{SERVICE}ModelStreamInfer")
        return Forwarded(call(metadata=_metadata(context), timeout=context.time_remaining()))


class Forwarded:
    """One stream to Triton; over when `copy_to` is."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def send(self, data: bytes) -> None:
        """Pass a request on."""
        await self._call.write(data)

    async def end(self) -> None:
        """No request will follow."""
        await self._call.done_writing()

    async def copy_to(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Pass every response back. Raises grpc.aio.AioRpcError when Triton ends the stream with an error."""
        try:
            async for data in self._call:
                await write(data)
        finally:
            self._call.cancel()


def _metadata(context: Context) -> tuple[tuple[str, Any], ...]:
    given = tuple((key, value) for key, value in context.invocation_metadata() or () if _is_of_the_client(key))
    return (
        *(pair for pair in given if pair[0] != log.REQUEST_ID_HEADER),
        (log.REQUEST_ID_HEADER, log.request_id.get()),
    )


def _is_of_the_client(key: str) -> bool:
    return not key.startswith(_NOT_FORWARDED)
