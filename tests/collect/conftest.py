from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp.test_utils import TestServer

from tests.collect.servers import Fake

Serve = Callable[[Fake], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a fake and gives its URL."""
    servers: list[TestServer] = []

    async def start(fake: Fake) -> str:
        servers.append(TestServer(fake.app()))
        await servers[-1].start_server()
        return str(servers[-1].make_url("")).rstrip("/")

    yield start
    for server in servers:
        await server.close()
