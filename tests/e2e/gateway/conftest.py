"""One Triton, one vLLM and two gateways for every test of this folder: alone, and in front of the Triton."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import docker
import pytest
from docker.models.containers import Container

from tests.e2e.gateway import servers
from tests.e2e.gateway.servers import NotServing, Server


@dataclass(frozen=True, slots=True)
class Servers:
    """What is compared. `alone` has only vLLM behind it; `passing` asks Triton for what it does not know."""

    triton: Server
    alone: Server
    passing: Server
    container: Container

    def triton_died(self) -> bool:
        """Whether Triton had ended by itself; it is back then.

        Triton 2.51 now and then writes two responses into one buffer of a stream and aborts (proto_buffer_writer.h:65).
        Raises NotServing when somebody stopped it.
        """
        try:
            self.triton.require_ready()
        except NotServing:
            servers.wait_for(self.triton.require_ready, self._is_coming_back)
            return True
        return False

    def _is_coming_back(self) -> bool:
        self.container.reload()
        return self.container.status in ("running", "restarting")


@pytest.fixture(scope="package")
def started(lab_up: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Every server, ready."""
    engine = docker.from_env()
    models = servers.copy_models(engine, tmp_path_factory.mktemp("models"))
    with ExitStack() as stack:
        triton, container = stack.enter_context(servers.triton(engine, models))
        vllm = stack.enter_context(servers.vllm(engine, models))
        servers.wait_for(triton.require_ready)
        servers.wait_for(lambda: servers.require_vllm(vllm))
        recorded = servers.snapshot(triton)
        alone, passing = (
            stack.enter_context(servers.gateway(tmp_path_factory.mktemp("gateway"), vllm, recorded, behind))
            for behind in (None, triton)
        )
        yield Servers(triton, alone, passing, container)


@pytest.fixture
def both(started: Servers) -> Servers:
    """The servers, proved to be ready: without one of them a test is an error, never a pass."""
    for server in (started.triton, started.alone, started.passing):
        server.require_ready()
    return started
