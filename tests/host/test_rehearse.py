"""The rehearsal with a real nginx as the switch and the real way back."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.switch import render
from tests.switch import operator_side as operator

from .machine import Machine, Server
from .test_back import install

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")


@pytest.fixture
def ports(machine: Machine, triton: Server, gateway: Server) -> Iterator[tuple[int, int]]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        public, rehearsal = one.getsockname()[1], two.getsockname()[1]
    settings = operator.settings(
        triton_http_port=triton.port,
        gateway_port=gateway.port,
        switch_ports={80: public},
        switch_rehearsal_port=rehearsal,
    )
    site = operator.TRITON_SITE.replace("8000", str(triton.port)).replace("listen [::]:80 default_server;", "")
    text = render(operator.files(site), main=operator.MAIN, settings=settings)
    text = text.replace("/run/migrate", f"{machine.root}/run/migrate")
    conf = machine.root / "nginx.conf"
    conf.write_text(text.replace("/var/log/migrate", f"{machine.root}/var/log/migrate"))
    for parent in list(conf.parents)[:4]:
        parent.chmod(parent.stat().st_mode | 0o055)
    configure(machine, triton, gateway, public, rehearsal)
    process = subprocess.Popen(["nginx", "-c", str(conf), "-g", "daemon off;"])
    deadline = time.monotonic() + 10
    with socket.socket() as probe:
        while probe.connect_ex(("127.0.0.1", rehearsal)) != 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield public, rehearsal
    process.terminate()
    process.wait(timeout=10)


def configure(machine: Machine, triton: Server, gateway: Server, public: int, rehearsal: int) -> None:
    install(machine, triton.url, public)
    path = machine.state / "back.env"
    path.write_text(path.read_text().replace("BACK_REHEARSAL_PORT=1", f"BACK_REHEARSAL_PORT={rehearsal}"))
    machine.configure(triton.url, gateway.url)
    config = json.loads((machine.state / "host.json").read_text())
    config["switch"] |= {"ports": {"80": public}, "rehearsal_port": rehearsal}
    (machine.state / "host.json").write_text(json.dumps(config))


def test_there_and_back(machine: Machine, ports: tuple[int, int]) -> None:
    token = machine.token()
    answer = machine.ok("rehearse", "--token", token)
    assert answer["passed"] is True
    assert [look["percent"] for look in answer["proof"]] == [0, 5, 25, 50, 100, 0]
    assert answer["proof"][0] == {"percent": 0, "triton": 20, "gateway": 0, "failed": 0}
    assert answer["proof"][4] == {"percent": 100, "triton": 0, "gateway": 20, "failed": 0}
    assert answer["proof"][5] == answer["proof"][0]
    assert answer["back"]["scope"] == "rehearsal"
    assert answer["there_s"] > 0
    assert not (machine.root / "run/migrate/rehearsal").exists()
    assert machine.ok("window", "--since", "2020-01-01T00:00:00Z")["total"] == 0


def test_a_dead_gateway_does_not_pass(machine: Machine, gateway: Server, ports: tuple[int, int]) -> None:
    gateway.handler.status = 500
    token = machine.token()
    assert machine.ok("rehearse", "--token", token)["passed"] is False


def test_synthetic_requests_count_as_traffic(machine: Machine, ports: tuple[int, int]) -> None:
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    assert machine.ok("synthetic", "--count", "7") == {"sent": 7, "ok": 7, "failed": 0, "errors": []}
    assert machine.ok("window", "--since", since)["by_upstream"]["triton"]["requests"] == 7


def test_live_back_is_proven_by_the_switchs_own_log(machine: Machine, ports: tuple[int, int]) -> None:
    token = machine.token()
    machine.ok("switch", "step", "--percent", "100", "--token", token)
    machine.ok("synthetic", "--count", "1")
    answer = machine.ok("back", "--reason", "test", "--token", token)
    assert answer["proof"] == "the switch: 200 from triton"
    assert not Path(machine.root / "run/migrate/live").exists()
