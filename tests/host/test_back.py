"""The way back as a real shell script against small servers; `dash` where it is there, `sh` anyway."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .machine import FILES, PROBE, Backend, Machine, Server

SHELL = shutil.which("dash") or "sh"
START = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.host.machine import Server
import time
Server("triton", int(sys.argv[1]))
time.sleep(30)
"""


class Switch(Backend):
    """Stands for the switch: looks at the flags and writes the log that nginx would write."""

    machine: Machine
    broken = False

    def do_POST(self) -> None:
        flags = self.machine.root / "run/migrate/live"
        by = "gateway" if self.broken or (flags / "b100").exists() else "triton"
        before = '::1 - - [21/Nov/2026:11:00:00 +0000] "POST / HTTP/1.1" 200 9'
        entry = f'{before} "{self.headers["Referer"]}" "c" {by} 0.01 0.01\n'
        with self.machine.log.open("a") as log:
            log.write(entry)
        super().do_POST()


@pytest.fixture
def switch(machine: Machine) -> Iterator[Server]:
    server = Server("switch", handler=type("Of", (Switch,), {"machine": machine}))
    yield server
    server.stop()


def install(machine: Machine, triton: str, switch_port: int, start: str = "false", limit_s: int = 1) -> None:
    shutil.copy(FILES / "back", machine.state / "back")
    values = {
        "BACK_TRITON_URL": triton,
        "BACK_PROBE_PATH": PROBE["path"],
        "BACK_PROBE_BODY": json.dumps(PROBE["body"]),
        "BACK_PROBE_TIMEOUT_S": "2",
        "BACK_START": start,
        "BACK_START_TIMEOUT_S": str(limit_s),
        "BACK_SWITCH_PORT": str(switch_port),
        "BACK_REHEARSAL_PORT": "1",
        "BACK_ACCESS_LOG": "/var/log/migrate/switch.access.log",
    }
    text = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    (machine.state / "back.env").write_text(text)


def everything_on_vllm(machine: Machine) -> Path:
    flags = machine.root / "run/migrate/live"
    flags.mkdir()
    for percent in (5, 25, 50, 100):
        (flags / f"b{percent}").touch()
    (machine.root / "etc/migrate/committed").write_text("{}")
    return flags


def go_back(machine: Machine, *arguments: str) -> tuple[int, dict[str, Any]]:
    command = [SHELL, str(machine.state / "back"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=machine.environment, timeout=60, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}


def test_syntax() -> None:
    subprocess.run([SHELL, "-n", str(FILES / "back")], check=True, timeout=10)


def test_it_moves_everything_and_proves_triton_through_the_switch(
    machine: Machine, triton: Server, switch: Server
) -> None:
    install(machine, triton.url, switch.port)
    flags = everything_on_vllm(machine)
    code, answer = go_back(machine, "--reason", 'said "no"; rm -rf /')
    assert (code, answer["ok"], answer["moved"], answer["started"]) == (0, True, True, False)
    assert answer["proof"] == "the switch: 200 from triton"
    assert answer["reason"] == "said  no ; rm -rf /"
    assert not flags.exists()
    assert not (machine.root / "etc/migrate/committed").exists()
    assert json.loads((machine.state / "back.jsonl").read_text()) == answer


def test_again_is_no_error(machine: Machine, triton: Server, switch: Server) -> None:
    install(machine, triton.url, switch.port)
    assert go_back(machine)[1]["moved"] is False
    assert go_back(machine)[0] == 0


def test_without_a_switch_triton_is_proven_directly(machine: Machine, triton: Server) -> None:
    install(machine, triton.url, 1)
    everything_on_vllm(machine)
    code, answer = go_back(machine)
    assert (code, answer["proof"]) == (0, "triton directly, the switch does not run")


@pytest.mark.parametrize("fault", ["dead", "answers 503"])
def test_what_serves_is_kept_while_triton_does_not_answer(
    machine: Machine, triton: Server, switch: Server, fault: str
) -> None:
    started = machine.root / "started"
    install(machine, triton.url, switch.port, start=f"touch {started}")
    flags = everything_on_vllm(machine)
    if fault == "dead":
        install(machine, "http://127.0.0.1:1", switch.port, start=f"touch {started}")
    triton.handler.status = 503
    code, answer = go_back(machine)
    assert (code, answer["ok"], answer["moved"], answer["started"]) == (7, False, False, True)
    assert "what serves was kept" in answer["error"]
    assert started.exists()
    assert (flags / "b100").exists()
    assert (machine.root / "etc/migrate/committed").exists()


def test_a_dead_triton_is_started_and_then_traffic_moves(machine: Machine, switch: Server) -> None:
    free = Server("free")
    free.stop()
    start = f"{sys.executable} -c {shlex.quote(START)} {free.port} >/dev/null 2>&1 &"
    install(machine, free.url, switch.port, start=start, limit_s=20)
    flags = everything_on_vllm(machine)
    code, answer = go_back(machine)
    assert (code, answer["started"], answer["moved"]) == (0, True, True)
    assert not flags.exists()


def test_a_switch_that_still_asks_the_gateway_is_not_proven(machine: Machine, triton: Server, switch: Server) -> None:
    install(machine, triton.url, switch.port)
    everything_on_vllm(machine)
    switch.handler.broken = True  # type: ignore[attr-defined]
    code, answer = go_back(machine)
    assert (code, answer["ok"], answer["proof"]) == (7, False, "the switch: 200 from gateway")


def test_rehearsal_never_touches_live(machine: Machine, triton: Server) -> None:
    install(machine, triton.url, 1)
    flags = everything_on_vllm(machine)
    code, _ = go_back(machine, "--scope", "rehearsal")
    assert code == 7  # nothing listens on the rehearsal port, so nothing is proven
    assert (flags / "b100").exists()


@pytest.mark.parametrize("arguments", [("--scope", "other"), ("--now",)])
def test_wrong_arguments_change_nothing(machine: Machine, triton: Server, arguments: tuple[str, ...]) -> None:
    install(machine, triton.url, 1)
    flags = everything_on_vllm(machine)
    assert go_back(machine, *arguments)[0] == 64
    assert flags.exists()


def test_hostctl_hands_the_answer_on(machine: Machine, triton: Server, switch: Server) -> None:
    install(machine, triton.url, switch.port)
    token = machine.token()
    everything_on_vllm(machine)
    assert machine.ok("back", "--reason", "why", "--token", token)["reason"] == "why"
    triton.handler.status = 500
    code, answer = machine.call("back", "--reason", "why", "--token", token)
    assert (code, answer["back"]["ok"]) == (7, False)
