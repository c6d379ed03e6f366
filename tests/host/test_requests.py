"""Probes, golden replies, and what the access logs tell."""

from __future__ import annotations

import json
import time

from .machine import Machine, Server

GOLDENS = [{"name": "one", "method": "POST", "path": "/v2/models/phi2/generate", "body": {"text_input": "a"}}]


def entry(
    at: float, by: str, *, status: int = 200, seconds: float = 0.1, name: str = "x", request: str = "POST /a"
) -> str:
    moment = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(at))
    combined = f'::1 - - [{moment}] "{request} HTTP/1.1" {status} 9 "http://witness.invalid/{name}" "c"'
    return f"{combined} {by} {seconds:.3f} 0.1\n"


def test_window_counts_by_upstream(machine: Machine) -> None:
    machine.configure("http://t", "http://g")
    now = time.time()
    lines = [entry(now - 100, "triton"), "torn by a cra", "\n", entry(now, "operator")]
    lines += [entry(now, "gateway", seconds=second / 100) for second in range(1, 101)]
    lines += [entry(now, "gateway", status=502, seconds=9.0, request=r"GET /\x22 a")]
    machine.log.write_text("".join(lines))
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 50))
    window = machine.ok("window", "--since", since)
    assert window["total"] == 102
    assert window["by_upstream"]["triton"]["requests"] == 0
    gateway = window["by_upstream"]["gateway"]
    assert (gateway["requests"], gateway["errors"], gateway["p50_s"], gateway["p95_s"]) == (101, 1, 0.51, 0.96)


def test_ids_of_both_servers_rotated_logs_too(machine: Machine) -> None:
    machine.configure("http://t", "http://g")
    operators = machine.root / "var/log/nginx"
    operators.mkdir(parents=True)
    combined = '::1 - - [21/Nov/2026:11:00:00 +0000] "POST /v2 HTTP/1.1" 200 9 "http://witness.invalid/w-1" "c"\n'
    (operators / "access.log.1").write_text(combined)
    (operators / "access.log").write_text(combined.replace("w-1", "other"))
    machine.log.write_text(entry(1, "gateway", name="w-2", status=500) + entry(1, "triton", name="w-3") * 2)
    assert machine.ok("ids", "--prefix", "w-")["ids"] == {
        "w-1": {"status": 200, "upstream": "operator", "seen": 1},
        "w-2": {"status": 500, "upstream": "gateway", "seen": 1},
        "w-3": {"status": 200, "upstream": "triton", "seen": 2},
    }


def test_probe(machine: Machine, triton: Server, gateway: Server) -> None:
    machine.configure(triton.url, gateway.url)
    assert machine.ok("probe", "--target", "triton")["text"] == "triton"
    assert machine.ok("probe", "--target", "vllm")["ok"] is True
    gateway.handler.status = 500
    failed = machine.ok("probe", "--target", "gateway")
    assert (failed["ok"], failed["text"], failed["error"].startswith("HTTP 500")) == (False, "", True)
    gateway.stop()
    assert "refused" in machine.ok("probe", "--target", "vllm")["error"]


def test_goldens_say_what_differs(machine: Machine, triton: Server, gateway: Server) -> None:
    machine.configure(triton.url, gateway.url)
    token = machine.token()
    assert machine.ok("goldens", "record", "--token", token, stdin=json.dumps(GOLDENS))["recorded"] == 1
    assert machine.ok("goldens", "verify") == {"same": True, "total": 1, "different": []}
    machine.configure(gateway.url, gateway.url)
    different = machine.ok("goldens", "verify")["different"]
    assert [d["name"] for d in different] == ["one"]
    assert "triton" in different[0]["was"]
    assert "gateway" in different[0]["is"]
    triton.handler.status = 200
    machine.configure("http://127.0.0.1:1", gateway.url)
    assert machine.ok("goldens", "verify")["same"] is False


def test_goldens_without_a_snapshot_are_an_error(machine: Machine) -> None:
    machine.configure("http://t", "http://g")
    assert machine.call("goldens", "verify")[0] == 1


def test_goldens_of_a_dead_triton_are_not_recorded(machine: Machine) -> None:
    machine.configure("http://127.0.0.1:1", "http://g")
    token = machine.token()
    assert machine.call("goldens", "record", "--token", token, stdin=json.dumps(GOLDENS))[0] == 1
    assert not (machine.state / "snapshot/goldens.json").exists()


def test_status_shows_what_it_can(machine: Machine) -> None:
    status = machine.ok("status")
    assert status["lock"]["held"] is False
    assert "host.json" in status["switch"]["error"]
    assert status["soak"] == {"state": "none"}
