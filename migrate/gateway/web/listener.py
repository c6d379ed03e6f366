"""An address that HTTP comes to: its socket, and uvicorn with the bounds that it has not of itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from migrate.gateway.config import GatewayConfig, LimitsConfig
from migrate.gateway.errors import ConfigError
from migrate.gateway.web.protocol import bounded

# Longer than nginx keeps its own connections to it (60 s): only the side that sends requests may close a quiet one.
_KEEP_ALIVE_S = 75
_BACKLOG = 2048


def listen(host: str, port: int, config: GatewayConfig) -> socket.socket:
    """A listening socket; several workers share its port, a single one has it alone. Raises ConfigError.

    The kernel ends connections whose client takes nothing of what it is sent for `limits.write_timeout_s`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG, reuse_port=config.workers > 1)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error}") from None
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(config.limits.write_timeout_s * 1000))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class Listener:
    """Serves one application on one socket."""

    def __init__(self, app: ASGIApp, listener: socket.socket, limits: LimitsConfig) -> None:
        self._socket = listener
        self._server = _Server(
            uvicorn.Config(
                app,
                http=bounded(limits),
                loop="none",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when it accepts connections."""
        self._serving = asyncio.create_task(self._server.serve([self._socket]))
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(0.01)

    async def stop(self, limit_s: float) -> None:
        """Accept nothing more; what runs has `limit_s` seconds to end, and is cancelled then."""
        if self._serving is not None:
            self._server.config.timeout_graceful_shutdown = limit_s  # type: ignore[assignment]  # any number does
            self._server.should_exit = True
            await self._serving


class _Server(uvicorn.Server):
    """Signals are for the process, which has more than one listener."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
