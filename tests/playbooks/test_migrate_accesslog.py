"""Who calls Triton, read from access logs: recorded and hostile ones, and what nginx itself writes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.playbooks.census import CASES, NOW, load

accesslog = load("migrate_accesslog")


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
