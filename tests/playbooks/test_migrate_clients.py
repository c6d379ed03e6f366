"""Who calls Triton, read from recorded output of a host, from its logs, and from this machine's own connections."""

from __future__ import annotations

import calendar
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import ansible.module_utils
import pytest
from hypothesis import given
from hypothesis import strategies as st

UTILS = Path(__file__).parents[2] / "playbooks" / "module_utils"
CASES = Path(__file__).parents[1] / "cases" / "census"
NOW = calendar.timegm((2026, 11, 21, 12, 0, 0))
PARAMS = {
    "nginx_access_logs": [],
    "triton_http_port": 8000,
    "triton_grpc_port": 8001,
    "triton_metrics_port": 8002,
    "triton_container": "triton-triton-1",
    "public_ports": [80],
    "window_s": 86_400,
}


def load(name: str) -> ModuleType:
    """A file of playbooks/module_utils under the name that modules import it by."""
    if str(UTILS) not in ansible.module_utils.__path__:
        ansible.module_utils.__path__.append(str(UTILS))
    return importlib.import_module(f"ansible.module_utils.{name}")


accesslog, sockets, clients = load("migrate_accesslog"), load("migrate_sockets"), load("migrate_clients")


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


def in_log(*names: str, **changed: Any) -> dict[str, Any]:
    paths = [str(CASES / "logs" / f"{name}.log") for name in names]
    return dict(accesslog.read_logs(paths, changed.get("since", NOW - 86_400), NOW, changed.get("started")))


def test_a_log_is_summed_by_caller_and_route() -> None:
    found = in_log("combined")
    rows = {(r["peer"], r["method"], r["route"], r["user_agent"]): (r["count"], r["status_5xx"]) for r in found["log"]}
    assert rows == {
        ("10.0.0.7", "POST", "phi2 generate", "python-requests/2.31"): (3, 1),
        ("2001:db8::7", "POST", "phi2/2 generate_stream", "curl/8.5.0"): (1, 0),
        ("10.0.0.8", "POST", "reranker infer", "-"): (1, 0),
        ("10.0.0.8", "GET", "phi2 metadata", "-"): (1, 0),
        ("10.0.0.8", "GET", "health ready", "kube-probe/1.30"): (1, 0),
        ("10.0.0.9", "POST", "grpc ModelInfer", "grpc-python/1.60"): (1, 0),
        ("10.0.0.6", "POST", "phi2 generate", "aiohttp"): (1, 0),
    }
    assert found["log"][0]["last"] == "2026-11-21T11:00:03Z"
    assert [r["peer"] for r in found["log"] if r["witness"]] == ["10.0.0.6"]
    assert found["logs"][0]["oldest"] == "2026-11-21T11:00:01Z"
    assert (found["logs"][0]["unparsed"], found["logged_inferences"]) == (0, 6)


def test_inferences_are_counted_from_tritons_start_on() -> None:
    assert in_log("combined", started=NOW - 3_600 + 5)["logged_inferences"] == 3


def test_nothing_that_was_asked_comes_back() -> None:
    text = json.dumps(in_log("combined"))
    assert not [word for word in ("hunter2", "alice", "secret", "api_key") if word in text]


def test_hostile_lines_neither_forge_a_caller_nor_reach_a_terminal() -> None:
    found = in_log("hostile")
    text = json.dumps(found, ensure_ascii=False)
    assert not [c for c in text if not c.isprintable()]
    peers = [row["peer"] for row in found["log"]]
    assert sorted(peers) == [f"10.6.6.{n}" for n in (1, 2, 3, 4, 5, 9)]
    routes = {row["peer"]: row["route"] for row in found["log"]}
    assert routes["10.6.6.3"] == "phi2 generate"
    assert routes["10.6.6.9"] == "?[2J generate"
    assert len(text) < 6_000
    assert found["logs"][0]["unparsed"] == 3


def test_another_form_of_log_is_counted_as_not_understood() -> None:
    found = in_log("json")
    assert (found["log"], found["logs"][0]["unparsed"]) == ([], 3)


def line(second: int, peer: str = "10.0.0.7", agent: str = "x", model: str = "phi2") -> str:
    at = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(NOW - 86_400 + second))
    return f'{peer} - - [{at}] "POST /v2/models/{model}/generate HTTP/1.1" 200 9 "-" "{agent}"\n'


def test_the_rotated_log_is_read_when_the_window_reaches_into_it(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    Path(f"{log}.1").write_text(line(-5) + line(10))
    log.write_text(line(20))
    found = accesslog.read_logs([str(log), str(log)], NOW - 86_400, NOW, None)
    assert [row["count"] for row in found["log"]] == [2]
    found = accesslog.read_logs([str(log)], NOW - 86_400 + 15, NOW, None)
    assert [row["count"] for row in found["log"]] == [1]


@pytest.mark.parametrize(("name", "limit"), [("MAX_LINES", 10), ("MAX_BYTES", 1_000)])
def test_a_long_log_is_read_from_its_end_and_says_how_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    log = tmp_path / "access.log"
    log.write_text("".join(line(second) for second in range(500)))
    monkeypatch.setattr(accesslog, name, limit)
    found = accesslog.read_logs([str(log)], NOW - 86_400, NOW, None)
    assert found["logs"][0]["truncated"]
    assert found["log"][0]["count"] <= 10
    assert found["logs"][0]["oldest"] >= accesslog.stamp(NOW - 86_400 + 490)


def test_made_up_names_do_not_crowd_out_other_callers(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    flood = [line(n, peer="10.6.6.6", agent=f"agent-{n}", model=f"m{n}") for n in range(3_000)]
    crowd = [line(n, peer=f"10.7.{n // 250}.{n % 250}") for n in range(2_000)]
    log.write_text("".join([*crowd, *flood, line(4_000)]))
    rows = accesslog.read_logs([str(log)], NOW - 86_400, NOW, None)["log"]
    assert sum(row["peer"] == "10.6.6.6" for row in rows) == accesslog.MAX_KINDS + 1
    assert [row["count"] for row in rows if row["peer"] == "10.0.0.7"] == [1]
    assert len({row["peer"] for row in rows}) == accesslog.MAX_PEERS + 1
    assert sum(row["count"] for row in rows) == 5_001
    assert {(row["verb"], row["count"]) for row in rows if row["peer"] == "*"} == {("various", 1_002)}


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "access.log")
    found = accesslog.read_logs([str(tmp_path / "access.log")], 0, NOW, None)
    assert "not a regular file" in found["logs"][0]["reason"]


PIECES = [
    '"',
    "\\",
    "[",
    "]",
    " - ",
    "\x1b[2J",
    "%",
    "\n",
    "\x85",
    '" 200 9 "-" "',
    "/v2/models/",
    "HTTP/1.1",
    "9" * 30,
]


@given(st.lists(st.one_of(st.sampled_from([*PIECES, line(1).strip()]), st.text(max_size=30)), max_size=30).map("".join))
def test_the_parser_takes_whatever_a_line_holds(text: str) -> None:
    entry = accesslog.parse(text)
    assert entry is None or (len(entry.peer) <= 45 and len(entry.agent) <= 100 and 0 <= entry.status <= 999)
    if entry is not None and entry.route is not None:
        assert "".join((entry.peer, entry.agent, entry.method, *entry.route)).isprintable()
        assert len(entry.route.name) <= 120


@given(st.binary(max_size=2_000))
def test_the_reader_takes_whatever_a_file_holds(content: bytes) -> None:
    state = {"path": "x", "lines": 0, "unparsed": 0, "oldest": None, "truncated": False}
    tally = accesslog._Tally(None)
    accesslog._read_lines(content.decode(errors="replace").split("\n"), 0, NOW, tally, state)
    assert state["lines"] <= content.count(b"\n") + 1


@given(st.text(max_size=300))
def test_the_readers_of_command_output_take_any_text(text: str) -> None:
    found, reason = sockets.sockets((0, text, ""))
    place = clients.place_of([], frozenset({"127.0.0.1"}), PARAMS)
    assert reason is None
    list(sockets.on_host(found, place, [80]))
    list(sockets.in_tracking(text.splitlines(), place, [80]))


NGINX = """
daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;
events {{}}
http {{
    access_log {at}/access.log;
    client_body_temp_path {at}; proxy_temp_path {at}; fastcgi_temp_path {at}; uwsgi_temp_path {at}; scgi_temp_path {at};
    server {{ listen 127.0.0.1:{port}; location / {{ return 200 "x"; }} }}
}}
"""


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_what_nginx_itself_writes_of_hostile_requests(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "nginx.conf").write_text(NGINX.format(at=tmp_path, port=port))
    nginx = subprocess.Popen(["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")])
    try:
        for agent in (b'a" 500 1 "-" "b', b"\x1b[2Jx", "café".encode()):
            _ask(port, b"POST /v2/models/phi2/generate?key=1 HTTP/1.1\r\nUser-Agent: " + agent)
        _ask(port, b"POST /v2/models/p%22hi/generate HTTP/1.1\r\nAuthorization: Basic " + b64encode(b'u [x] "y:z'))
    finally:
        nginx.terminate()
        nginx.wait(timeout=10)
    found = accesslog.read_logs([str(tmp_path / "access.log")], time.time() - 60, time.time(), None)
    agents = {row["user_agent"] for row in found["log"] if row["model"] == "phi2"}
    assert agents == {r"a\x22 500 1 \x22-\x22 \x22b", r"\x1B[2Jx", r"caf\xC3\xA9"}
    assert [row["route"] for row in found["log"] if row["model"] != "phi2"] == ['p"hi generate']
    assert {row["peer"] for row in found["log"]} == {"127.0.0.1"}
    assert (found["logs"][0]["unparsed"], sum(row["status_5xx"] for row in found["log"])) == (0, 0)


def _ask(port: int, request: bytes) -> None:
    for _ in range(100):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(request + b"\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                while connection.recv(4096):
                    pass
                return
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise AssertionError("nginx does not listen")


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
