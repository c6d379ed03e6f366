"""Who calls Triton, read from recorded output of a host and from this machine's own connections."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.playbooks.census import CASES, NOW, load

PARAMS = {
    "nginx_access_logs": [],
    "triton_http_port": 8000,
    "triton_grpc_port": 8001,
    "triton_metrics_port": 8002,
    "triton_container": "triton-triton-1",
    "public_ports": [80],
    "window_s": 86_400,
}


sockets, clients = load("migrate_sockets"), load("migrate_clients")


class Host:
    """Answers commands from recorded output, and remembers them."""

    def __init__(self, **missing: int) -> None:
        self.ran: list[list[str]] = []
        self.missing = missing

    def __call__(self, argv: list[str]) -> tuple[int, str, str]:
        self.ran.append(argv)
        name = self._name(argv)
        if name in self.missing or (name not in RECORDED and name != "docker_ps"):
            return self.missing.get(name, 127), "", f"{argv[0]}: not found"
        return 0, "id\n" if name == "docker_ps" else (CASES / "host" / RECORDED[name]).read_text(), ""

    @staticmethod
    def _name(argv: list[str]) -> str:
        if argv[0] == "docker":
            return "docker_ps" if argv[1] == "ps" else "docker_inspect"
        return "ss_listen" if "-Hltnp" in argv else argv[0]


RECORDED = {
    "ss_listen": "ss_listen.txt",
    "ss": "ss.txt",
    "nsenter": "ss_inside.txt",
    "ip": "ip.json",
    "docker_inspect": "containers.json",
}


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc with connection tracking, and one process that runs in a container of the host's network."""
    (tmp_path / "net").mkdir()
    shutil.copy(CASES / "host" / "nf_conntrack.txt", tmp_path / "net" / "nf_conntrack")
    (tmp_path / "1200").mkdir()
    (tmp_path / "1200" / "cgroup").write_text(f"0::/system.slice/docker-{'e' * 64}.scope\n")
    for module in (sockets, clients):
        monkeypatch.setattr(module, "PROC", tmp_path)
    return tmp_path


def read(run: Any, **changed: Any) -> dict[str, Any]:
    found = clients.clients(run, PARAMS | changed, now=NOW)
    assert json.loads(json.dumps(found)) == found
    return dict(found)


def short(found: dict[str, Any]) -> set[tuple[Any, ...]]:
    return {(s["peer"], s["port"], s["process"], s["container"], s["count"], s["source"]) for s in found["sockets"]}


def test_every_way_to_triton_is_seen_once(proc: Path) -> None:
    assert short(read(Host())) == {
        ("10.0.0.7", 80, None, None, 2, "sockets"),
        ("2001:db8::9", 80, None, None, 1, "sockets"),
        ("172.18.0.5", 80, None, "statuspage", 1, "sockets"),
        ("127.0.0.1", 8000, "nginx", None, 1, "sockets"),
        ("127.0.0.1", 8000, "batch scorer", "agent", 1, "sockets"),
        ("::1", 8000, "python3", None, 1, "sockets"),
        ("172.18.0.1", 8001, "haproxy", None, 1, "sockets"),
        ("10.0.0.40", 8001, None, None, 1, "sockets"),
        ("172.18.0.4", 8000, None, "assistant", 2, "sockets"),
        ("10.0.0.41", 8000, None, None, 1, "tracking"),
        ("2001:db8::44", 8000, None, None, 1, "tracking"),
    }


def test_networks_and_balancers(proc: Path) -> None:
    found = read(Host())
    assert found["networks"] == [{"network": "triton_default", "members": ["assistant", "statuspage"]}]
    assert found["balancers"] == [
        {"name": "haproxy", "kind": "process", "listens": [9443]},
        {"name": "edge", "kind": "container", "listens": [9444]},
    ]
    assert (found["tracking"], found["inferences"]["since"]) == (
        str(proc / "net/nf_conntrack"),
        "2026-11-21T10:00:00.123456789Z",
    )
    assert {s["family"] for s in found["sockets"] if s["peer"] in ("::1", "2001:db8::9")} == {"ipv6"}


def test_published_port_that_differs_from_the_containers() -> None:
    containers = json.loads((CASES / "host" / "containers.json").read_text())
    containers[0]["NetworkSettings"]["Ports"] = {"9000/tcp": [{"HostIp": "", "HostPort": "8000"}]}
    place = clients.place_of(containers, frozenset({"127.0.0.1"}), PARAMS)
    line = "ESTAB 0 0 172.18.0.2:9000 172.18.0.4:39001"
    seen = list(sockets.in_container(sockets.sockets((0, line, ""))[0], place))
    assert [(c.port, c.container) for c in seen] == [(8000, "assistant")]


def test_a_bare_triton_on_the_hosts_network_is_never_entered(proc: Path) -> None:
    containers = json.loads((CASES / "host" / "containers.json").read_text())
    containers[0]["NetworkSettings"] = {"Ports": {}, "Networks": {"host": {"IPAddress": ""}}}
    place = clients.place_of(containers, frozenset({"127.0.0.1"}), PARAMS)
    assert (place.pid, place.triton) == (None, frozenset())


def test_several_looks_count_a_connection_once(proc: Path) -> None:
    run, pauses = Host(), []
    found = clients.clients(run, PARAMS | {"watch_s": 3}, pause=pauses.append, now=NOW)
    assert pauses == [1.0, 1.0, 1.0]
    assert sum(argv[:2] == ["ss", "-Htnp"] for argv in run.ran) == 4
    assert ("172.18.0.4", 8000, None, "assistant", 2, "sockets") in short(found)


def test_a_host_that_lacks_everything_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (sockets, clients):
        monkeypatch.setattr(module, "PROC", tmp_path)
    found = read(lambda argv: (127, "", f"{argv[0]}: not found"), nginx_access_logs=["/none/access.log"])
    assert (found["log"], found["sockets"], found["networks"], found["balancers"]) == ([], [], [], [])
    assert found["tracking"] is None
    assert (
        found["reason"]
        == "docker ps: docker: not found; ss: ss: not found; /none/access.log: No such file or directory"
    )


def test_a_failed_look_into_the_container_is_said(proc: Path) -> None:
    assert "inside Triton's container: ss: nsenter: not found" in read(Host(nsenter=1))["reason"]


def test_conntrack_is_asked_only_where_tracking_is_on(proc: Path) -> None:
    (proc / "net" / "nf_conntrack").unlink()
    run = Host()
    assert read(run)["tracking"] is None
    assert not any(argv[0] == "conntrack" for argv in run.ran)
    (proc / "sys/net/netfilter").mkdir(parents=True)
    (proc / "sys/net/netfilter/nf_conntrack_count").write_text("1\n")
    assert read(run)["tracking"] is None
    assert any(argv[0] == "conntrack" for argv in run.ran)


def test_ports_are_numbers_in_what_is_run(proc: Path) -> None:
    run = Host()
    read(run)
    words = " ".join(argv[-1] for argv in run.ran if argv[0] == "ss" and len(argv) > 2)
    assert set(words.split()) - {"(", ")", "or", "sport", "dport", "="} == {":80", ":8000", ":8001", ":8002", ":8081"}


@given(st.text(max_size=300))
def test_the_readers_of_command_output_take_any_text(text: str) -> None:
    found, reason = sockets.sockets((0, text, ""))
    place = clients.place_of([], frozenset({"127.0.0.1"}), PARAMS)
    assert reason is None
    list(sockets.on_host(found, place, [80]))
    list(sockets.in_tracking(text.splitlines(), place, [80]))


def run_here(argv: list[str]) -> tuple[int, str, str]:
    if argv[0] == "docker":
        return 127, "", "docker: left out"
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this machine that something listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


CALLER = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))):
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(shutil.which("ss") is None, reason="needs ss")
def test_a_process_of_this_machine_is_found_as_a_loopback_caller(port: int) -> None:
    argv = [sys.executable, "-c", CALLER, str(port)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as caller:
        assert caller.stdin and caller.stdout
        assert caller.stdout.readline() == b"up\n"
        found = read(run_here, triton_http_port=port)
        caller.stdin.close()
    mine = [s for s in found["sockets"] if s["port"] == port]
    assert [(s["peer"], s["family"], s["count"]) for s in mine] == [("127.0.0.1", "ipv4", 1)]
    assert mine[0]["process"]


@pytest.mark.skipif(shutil.which("ss") is None, reason="needs ss")
def test_what_the_reader_itself_asks_is_no_client(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)):
        found = read(run_here, triton_http_port=port)
    assert [s for s in found["sockets"] if s["port"] == port] == []
