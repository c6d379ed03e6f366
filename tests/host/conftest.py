from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .machine import Machine, Server


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def triton() -> Iterator[Server]:
    server = Server("triton")
    yield server
    server.stop()


@pytest.fixture
def gateway() -> Iterator[Server]:
    server = Server("gateway")
    yield server
    server.stop()
