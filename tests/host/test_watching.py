"""Steps, the dead-man switch and soak's watcher; systemctl is a note-taker here, systemd itself is met in the lab."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from .machine import Machine, Server
from .test_requests import entry


@pytest.fixture
def token(machine: Machine, triton: Server, gateway: Server) -> str:
    machine.configure(triton.url, gateway.url)
    machine.fake("systemctl", '[ "$1" = is-active ] && echo active; exit 0')
    machine.fake("nft", "exit 1")
    back(machine, 0)
    return machine.token()


def back(machine: Machine, code: int) -> None:
    """A way back that only answers."""
    moved = f"rm -rf {machine.root}/run/migrate/live" if code == 0 else ":"
    line = json.dumps({"at": "2099-01-01T00:00:00.000Z", "reason": "deadman", "ok": code == 0, "error": "no"})
    script = f"{moved}\necho '{line}' | tee -a {machine.state}/back.jsonl\nexit {code}\n"
    (machine.state / "back").write_text(script)


def flags(machine: Machine, scope: str = "live") -> set[str]:
    path = machine.root / "run/migrate" / scope
    return {flag.name for flag in path.iterdir()} if path.exists() else set()


def test_steps_up_down_and_to_nothing(machine: Machine, token: str) -> None:
    for percent, expected in ((25, {"b5", "b25"}), (100, {"b5", "b25", "b50", "b100"}), (5, {"b5"}), (0, set())):
        answer = machine.ok("switch", "step", "--percent", str(percent), "--token", token)
        assert flags(machine) == expected
        assert answer["percent"] == machine.ok("switch", "status")["percent"] == percent
    assert list((machine.root / "run/migrate").iterdir()) == []


def test_scopes_are_apart(machine: Machine, token: str) -> None:
    machine.ok("switch", "step", "--percent", "50", "--scope", "rehearsal", "--token", token)
    assert flags(machine) == set()
    assert flags(machine, "rehearsal") == {"b5", "b25", "b50"}


def test_a_share_that_is_no_step_is_refused(machine: Machine, token: str) -> None:
    assert machine.call("switch", "step", "--percent", "30", "--token", token)[0] == 3


def test_commit_below_everything_is_refused(machine: Machine, token: str) -> None:
    machine.ok("switch", "step", "--percent", "50", "--token", token)
    assert machine.call("switch", "commit", "--token", token)[0] == 3


def test_redirect_without_a_switch_is_refused(machine: Machine, token: str) -> None:
    machine.configure("http://t", "http://g", switch={"ports": {"80": 1}, "unit": "u"})
    code, answer = machine.call("switch", "redirect", "on", "--token", token)
    assert (code, "does not listen" in answer["error"]) == (3, True)


def test_deadman_is_a_timer_at_an_absolute_moment(machine: Machine, token: str) -> None:
    before = time.time()
    armed = machine.ok("deadman", "arm", "--seconds", "60", "--token", token)
    unit = (machine.root / "etc/systemd/system/migrate-deadman.timer").read_text()
    moment = armed["fires_at"][:19].replace("T", " ")
    assert f"OnCalendar={moment} UTC\n" in unit
    assert "Persistent=true" in unit
    assert "AccuracySec=100ms" in unit
    seconds = time.mktime(time.strptime(moment, "%Y-%m-%d %H:%M:%S")) - time.timezone - before
    assert 60 <= seconds <= 75
    calls = (machine.root / "systemctl.calls").read_text().splitlines()
    assert calls.index("daemon-reload") < calls.index("restart migrate-deadman.timer")
    assert armed["armed"] is True


def test_confirming_disarms_and_tells_what_happened(machine: Machine, token: str) -> None:
    machine.ok("deadman", "arm", "--seconds", "60", "--token", token)
    machine.call("back", "--reason", "deadman", "--token", token)
    answer = machine.ok("deadman", "confirm", "--token", token)
    assert (answer["armed"], len(answer["fired"])) == (False, 1)
    assert not (machine.root / "etc/systemd/system/migrate-deadman.timer").exists()
    assert machine.ok("deadman", "status") == {"armed": False, "fires_at": None, "fired": []}
    machine.ok("deadman", "confirm", "--token", token)


def test_a_run_that_slept_through_the_moment_cannot_arm_again(machine: Machine, token: str) -> None:
    machine.ok("deadman", "arm", "--seconds", "60", "--token", token)
    machine.call("back", "--reason", "deadman", "--token", token)
    code, answer = machine.call("deadman", "arm", "--seconds", "60", "--token", token)
    assert (code, "fired at" in answer["error"]) == (3, True)
    machine.ok("lock", "break", "--id", machine.ok("lock", "status")["lock"]["id"], "--force")
    machine.ok("deadman", "arm", "--seconds", "60", "--token", machine.token())


def soak(machine: Machine, token: str, **line: object) -> dict[str, object]:
    """A soak with a baseline of 0.1 s that meets twenty requests, logged (to the second) after it was armed."""
    machine.ok("switch", "step", "--percent", "100", "--token", token)
    machine.ok("soak", "arm", "--token", token, "--baseline-p95-s", "0.1")
    machine.log.write_text("".join(entry(time.time() + 1, "gateway", **line) for _ in range(20)))  # type: ignore[arg-type]
    machine.ok("soak", "watch")
    return machine.ok("soak", "status")


def test_soak_passes(machine: Machine, token: str) -> None:
    state = soak(machine, token)
    assert (state["state"], state["requests"], state["error_rate"]) == ("passed", 20, 0.0)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"status": 502}, "error rate"),
        ({"seconds": 0.5}, "p95"),
    ],
)
def test_soak_goes_back_by_itself(machine: Machine, token: str, line: dict[str, object], says: str) -> None:
    state = soak(machine, token, **line)
    assert state["state"] == "went_back"
    assert says in str(state["reason"])
    assert flags(machine) == set()


def test_soak_goes_back_when_the_gateway_is_dead(machine: Machine, token: str, gateway: Server) -> None:
    gateway.handler.status = 500
    state = soak(machine, token)
    assert (state["state"], "probes in a row" in str(state["reason"])) == ("went_back", True)


def test_soak_tries_again_while_the_way_back_fails(machine: Machine, token: str, gateway: Server) -> None:
    gateway.handler.status = 500
    back(machine, 7)
    machine.ok("switch", "step", "--percent", "100", "--token", token)
    machine.ok("soak", "arm", "--token", token, "--baseline-p95-s", "0.1")
    watcher = machine.start("soak", "watch")
    wait_for(machine.state / "back.jsonl")
    assert machine.ok("soak", "status")["state"] == "watching"
    back(machine, 0)
    watcher.communicate(timeout=30)
    assert machine.ok("soak", "status")["state"] == "went_back"


def test_soak_notices_that_somebody_else_went_back(machine: Machine, token: str) -> None:
    machine.ok("switch", "step", "--percent", "100", "--token", token)
    machine.ok("soak", "arm", "--token", token, "--baseline-p95-s", "0.1")
    machine.ok("switch", "step", "--percent", "0", "--token", token)
    machine.ok("soak", "watch")
    assert machine.ok("soak", "status")["state"] == "went_back"


def test_soak_below_everything_is_refused(machine: Machine, token: str) -> None:
    assert machine.call("soak", "arm", "--token", token)[0] == 3


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
