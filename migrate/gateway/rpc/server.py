"""The gRPC side: Triton's GRPCInferenceService and gRPC's own health check, in the event loop of the caller."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc

from migrate.gateway.config import GatewayConfig, GrpcConfig
from migrate.gateway.core.engine import Engine
from migrate.gateway.core.models import Registry
from migrate.gateway.errors import ConfigError
from migrate.gateway.rpc.calls import Methods, stream, unary
from migrate.gateway.rpc.control import Control
from migrate.gateway.rpc.infer import Inference
from migrate.gateway.rpc.passthrough import SERVICE, Passthrough

_HEALTH_CHECK = "/grpc.health.v1.Health/Check"
# What Triton 2.51 sets unless its command line says otherwise (`src/command_line_parser.cc`), times in milliseconds.
_AS_TRITON = (
    ("grpc.keepalive_time_ms", 7_200_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 2),
    ("grpc.http2.min_ping_interval_without_data_ms", 300_000),
    ("grpc.http2.max_ping_strikes", 2),
)


async def serve_grpc(
    engine: Engine,
    registry: Registry,
    config: GatewayConfig,
    is_ready: Callable[[], Awaitable[bool]],
) -> grpc.aio.Server:
    """A started server on the address of `config.grpc`; `stop` it with a grace in seconds to let calls end.

    Raises ConfigError when it cannot listen there.
    """
    listen = config.grpc or GrpcConfig()
    passthrough = Passthrough(config.passthrough.grpc if config.passthrough else "", registry)
    control = Control(registry, passthrough, is_ready)
    inference = Inference(engine, registry, passthrough, config.limits.write_timeout_s)
    handlers = {SERVICE + name: unary(name, work) for name, work in control.calls().items()}
    handlers[SERVICE + "ModelInfer"] = unary("ModelInfer", inference.infer)
    handlers[SERVICE + "ModelStreamInfer"] = stream(inference.infer_stream)
    handlers[_HEALTH_CHECK] = unary("Health", control.health)
    server = grpc.aio.server(handlers=(Methods(handlers),), options=_options(config, listen))
    address = f"{listen.host}:{listen.port}"
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigError(f"grpc: cannot listen on {address}: {error}") from None
    await server.start()
    return server


def _options(config: GatewayConfig, listen: GrpcConfig) -> tuple[tuple[str, int], ...]:
    """Several workers share the port; a single one must have it alone, or two gateways would split its clients."""
    sizes = (
        ("grpc.max_send_message_length", 2**31 - 1),
        ("grpc.max_receive_message_length", listen.max_message_bytes),
    )
    return (*_AS_TRITON, *sizes, ("grpc.so_reuseport", int(config.workers > 1)))
