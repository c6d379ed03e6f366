"""The dead-man switch: a systemd timer on the host that runs `back` unless it is confirmed in time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from . import back
from .errors import Refused
from .system import Paths, iso, now, parse_iso, run, write_atomic

TIMER = "migrate-deadman.timer"
SERVICE = "migrate-deadman.service"

_UNIT = """[Unit]
Description=Takes traffic back to Triton unless the controller confirms in time

[Timer]
OnCalendar={moment} UTC
AccuracySec=100ms
Persistent=true
Unit={service}

[Install]
WantedBy=timers.target
"""


def arm(paths: Paths, *, seconds: float, token: int) -> dict[str, Any]:
    """Fire in `seconds` from now, rounded up; arming again moves the moment, a reboot does not.

    Raises Refused where it has gone off since the same run armed it: that run slept, and traffic went back meanwhile.
    """
    before = status(paths)
    if before["fired"] and _remembered(paths).get("token") == token:
        raise Refused(
            f"the dead-man switch fired at {before['fired'][-1]['at']}; traffic went back", "migrate rollback"
        )
    moment = math.ceil(now() + seconds)
    text = _UNIT.format(moment=iso(moment)[:19].replace("T", " "), service=SERVICE)
    write_atomic(paths.units / TIMER, text, 0o644)
    write_atomic(_memory(paths), json.dumps({"armed": iso(now()), "fires_at": iso(moment), "token": token}) + "\n")
    run(["systemctl", "daemon-reload"])
    run(["systemctl", "reset-failed", SERVICE], check=False)
    run(["systemctl", "enable", TIMER])
    run(["systemctl", "restart", TIMER])
    return status(paths)


def confirm(paths: Paths) -> dict[str, Any]:
    """All is well: disarm. `fired` in the answer says whether it had gone off before."""
    if (paths.units / TIMER).exists():
        run(["systemctl", "disable", "--now", TIMER])
        run(["systemctl", "stop", SERVICE], check=False)
        (paths.units / TIMER).unlink()
        run(["systemctl", "daemon-reload"])
    answer = status(paths)
    _memory(paths).unlink(missing_ok=True)
    return answer


def status(paths: Paths) -> dict[str, Any]:
    """Whether it is armed, when it fires, and what it did since it was armed last."""
    memory = _remembered(paths)
    since = parse_iso(memory["armed"]) if memory else 0.0
    fired = [r for r in back.history(paths) if r["reason"] == "deadman" and parse_iso(r["at"]) >= since]
    armed = (paths.units / TIMER).exists() and bool(memory) and parse_iso(memory["fires_at"]) > now()
    return {"armed": armed, "fires_at": memory.get("fires_at"), "fired": fired if memory else []}


def _remembered(paths: Paths) -> dict[str, Any]:
    try:
        return dict(json.loads(_memory(paths).read_text()))
    except (OSError, ValueError):
        return {}


def _memory(paths: Paths) -> Path:
    return paths.state / "deadman.json"
