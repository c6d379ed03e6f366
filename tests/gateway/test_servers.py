"""Which server gets the next request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from migrate.gateway.config import HealthConfig, UpstreamConfig
from migrate.gateway.vllm.servers import Server, Servers

A, B, C = (UpstreamConfig(url=f"http://{name}:8000") for name in "abc")


class Doctor:
    def __init__(self) -> None:
        self.is_healthy = False
        self.asked = asyncio.Event()

    async def __call__(self, _: Server) -> bool:
        self.asked.set()
        return self.is_healthy


@asynccontextmanager
async def servers_of(*configs: UpstreamConfig, doctor: Doctor | None = None) -> AsyncIterator[Servers]:
    servers = Servers(configs, HealthConfig(failures=2, probe_s=0.001), doctor or Doctor())
    try:
        yield servers
    finally:
        await servers.close()


def picked(servers: Servers, model: str = "") -> str:
    server = servers.pick(model)
    assert server is not None
    server.outstanding += 1
    return server.url[7]


async def test_the_server_with_the_fewest_requests() -> None:
    async with servers_of(A, B) as servers:
        servers.all[0].outstanding = 5
        assert [picked(servers) for _ in range(5)] == ["b"] * 5
        assert sorted(picked(servers) for _ in range(2)) == ["a", "b"]


async def test_equal_servers_take_turns() -> None:
    async with servers_of(A, B, C) as servers:
        for _ in range(10):
            assert sorted(picked(servers) for _ in range(3)) == ["a", "b", "c"]
        first = set()
        for _ in range(6):
            first.add(picked(servers))
            for server in servers.all:
                server.outstanding = 0
        assert first == {"a", "b", "c"}


async def test_only_a_server_of_the_model() -> None:
    only_phi = UpstreamConfig(url="http://a:8000", models=frozenset({"phi-2"}))
    only_llama = UpstreamConfig(url="http://b:8000", models=frozenset({"llama"}))
    async with servers_of(only_phi, only_llama) as servers:
        assert [picked(servers, "phi-2") for _ in range(3)] == ["a"] * 3
        assert servers.pick("phi-2", [servers.all[0]]) is None
        assert servers.pick("qwen") is None


async def test_failures_in_a_row_put_a_server_aside_until_it_is_well() -> None:
    doctor = Doctor()
    async with servers_of(A, B, doctor=doctor) as servers:
        sick, well = servers.all
        servers.failed(sick, "once")
        servers.succeeded(sick)
        servers.failed(sick, "once again")
        assert sick.is_up
        servers.failed(sick, "twice in a row")
        well.outstanding = 100
        assert picked(servers) == "b"
        doctor.asked.clear()
        await doctor.asked.wait()
        assert not sick.is_up
        doctor.is_healthy = True
        while not sick.is_up:
            await asyncio.sleep(0.001)
        assert picked(servers) == "a"


async def test_the_only_server_is_asked_even_when_it_fails() -> None:
    async with servers_of(A) as servers:
        for _ in range(3):
            servers.failed(servers.all[0], "down")
        assert picked(servers) == "a"


async def test_another_list_keeps_what_is_known() -> None:
    async with servers_of(A, B) as servers:
        servers.all[1].outstanding = 3
        servers.update([B, C])
        assert [(server.url[7], server.outstanding) for server in servers.all] == [("b", 3), ("c", 0)]
