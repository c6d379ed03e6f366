"""One worker: every listener in one event loop, from the first request to the end of the last."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from starlette.types import ASGIApp

from migrate.gateway.config import GatewayConfig, ModelConfig, load
from migrate.gateway.core.engine import Engine
from migrate.gateway.core.models import Registry
from migrate.gateway.observe import tracing
from migrate.gateway.openai import keys
from migrate.gateway.openai.v1 import OpenAiSide
from migrate.gateway.vllm.upstreams import Upstreams
from migrate.gateway.web import front
from migrate.gateway.web.listener import Listener, listen
from migrate.gateway.web.passthrough import Passthrough
from migrate.gateway.web.triton import build_app

_log = logging.getLogger("migrate.gateway")
_LAST_S = 1.0
_Stop = Callable[[float], Awaitable[None]]


class Configuration:
    """The file as it was read last. Raises ConfigError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.current = load(path)

    def reread(self) -> GatewayConfig:
        """Read it again. Raises ConfigError, and keeps what it had."""
        self.current = load(self._path)
        return self.current


async def serve(configuration: Configuration, key: str = "", worker: int = 0) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was begun; a second signal ends the process at once.

    `key` is vLLM's own, `worker` the number of this process among several. Raises ConfigError where it cannot listen.
    """
    config = configuration.current
    _raise_open_files()
    async with AsyncExitStack() as stack:
        if config.tracing is not None:
            stack.callback(tracing.turn_on(config.tracing.endpoint, config.tracing.service))
        pool = await stack.enter_async_context(Upstreams(config, key))
        registry = Registry(config, lambda: _reread(configuration, pool), pool.missing)
        engine = Engine(registry, pool)
        app = front.build(await _parts(stack, configuration, registry, engine, pool), config.limits)
        stops: list[_Stop] = []
        if config.metrics is not None:
            await _start(stack, front.metrics_only, (config.metrics.host, config.metrics.port + worker), config)
        if config.grpc is not None:
            from migrate.gateway.rpc.server import serve_grpc

            stops.append((await serve_grpc(engine, registry, config, pool.answers)).stop)
        # Last: who sees it live may use the others.
        stops.append(await _start(stack, app, (config.listen.host, config.listen.port), config))
        gc.freeze()
        _log.info("serving")
        await _told_to_stop()
        _log.info("stopping: no longer ready, what is running may end")
        pool.is_draining = True
        await asyncio.sleep(config.drain.notice_s)
        await asyncio.gather(*(stop(config.drain.limit_s) for stop in stops))


async def _parts(
    stack: AsyncExitStack, configuration: Configuration, registry: Registry, engine: Engine, pool: Upstreams
) -> front.Parts:
    config = configuration.current
    openai = passthrough = None
    if config.openai.is_enabled:
        openai = OpenAiSide(lambda: configuration.current, pool.connections, keys.load(config.openai), pool.key)
    if config.passthrough is not None:
        passthrough = Passthrough(config.passthrough)
        await passthrough.open()
        stack.push_async_callback(passthrough.close)
    triton = build_app(engine, registry, config, pool.answers, passthrough.index if passthrough else None)
    return front.Parts(triton, openai, passthrough, lambda name: any(row["name"] == name for row in registry.index()))


async def _start(stack: AsyncExitStack, app: ASGIApp, address: tuple[str, int], config: GatewayConfig) -> _Stop:
    """A listener that stops with the stack, if nobody stopped it earlier."""
    listener = Listener(app, listen(*address, config), config.limits)
    stack.push_async_callback(listener.stop, _LAST_S)
    await listener.start()
    return listener.stop


def _reread(configuration: Configuration, pool: Upstreams) -> Mapping[str, ModelConfig]:
    config = configuration.reread()
    pool.connections.servers.update(config.servers)
    return config.models


async def _told_to_stop() -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)


def _raise_open_files() -> None:
    """A stream takes two sockets; the usual soft limit of 1,024 files ends at 500 streams."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
