"""Which vLLM server gets the next request: the one that answers the fewest, of those that have not failed lately."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence

from migrate.gateway.config import HealthConfig, UpstreamConfig
from migrate.gateway.observe import metrics

_log = logging.getLogger("migrate.gateway.vllm.servers")


class Server:
    """One vLLM server and what is known of it."""

    def __init__(self, config: UpstreamConfig) -> None:
        self.config = config
        self.url = config.url
        self.outstanding = 0
        self.failures = 0
        self.is_up = True
        metrics.upstream_outstanding.labels(self.url).set_function(lambda: self.outstanding)
        metrics.upstream_up.labels(self.url).set_function(lambda: int(self.is_up))

    def serves(self, model: str) -> bool:
        """Whether it has the model, by vLLM's name; every server has the model "", which stands for any."""
        return not model or not self.config.models or model in self.config.models


class Servers:
    """Picks among servers; those that fail are left out and asked for their health until they are well again.

    `is_healthy` asks one server. A failing server is still picked where a model has no other.
    """

    def __init__(
        self, configs: Sequence[UpstreamConfig], health: HealthConfig, is_healthy: Callable[[Server], Awaitable[bool]]
    ) -> None:
        self.all = [Server(config) for config in configs]
        self._health = health
        self._is_healthy = is_healthy
        self._turn = 0
        self._probes: set[asyncio.Task[None]] = set()

    def update(self, configs: Sequence[UpstreamConfig]) -> None:
        """Take another list of servers; what is known of those that stay is kept."""
        known = {server.config: server for server in self.all}
        self.all = [known.get(config) or Server(config) for config in configs]

    def pick(self, model: str, without: Collection[Server] = ()) -> Server | None:
        """The server for the next request of a model; None when `without` leaves none. Equal ones take turns."""
        able = [server for server in self.all if server.serves(model) and server not in without]
        candidates = [server for server in able if server.is_up] or able
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        self._turn += 1
        start = self._turn % len(candidates)
        return min(candidates[start:] + candidates[:start], key=lambda server: server.outstanding)

    def succeeded(self, server: Server) -> None:
        """It answered, which ends a row of failures; only a probe brings back a server that is left out."""
        server.failures = 0

    def failed(self, server: Server, why: str) -> None:
        """A connection to it broke, or it answered as only a sick server does."""
        server.failures += 1
        if server.is_up and server.failures >= self._health.failures:
            server.is_up = False
            _log.warning("%s gets no more requests: %s", server.url, why)
            probe = asyncio.create_task(self._probe(server))
            self._probes.add(probe)
            probe.add_done_callback(self._probes.discard)

    async def close(self) -> None:
        """End the probes."""
        for probe in list(self._probes):
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)

    async def _probe(self, server: Server) -> None:
        is_healthy = False
        while not is_healthy:
            await asyncio.sleep(self._health.probe_s)
            is_healthy = await self._is_healthy(server)
        server.failures = 0
        server.is_up = True
        _log.warning("%s gets requests again", server.url)
