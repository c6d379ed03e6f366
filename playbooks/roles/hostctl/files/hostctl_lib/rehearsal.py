"""The cutover and the way back, for real, on the private listener that no client uses."""

from __future__ import annotations

import time
from typing import Any

from . import back, probes, switch, traffic
from .system import Paths

_REQUESTS_A_STEP = 20
_LOG_LIMIT_S = 5.0


def rehearse(paths: Paths, config: dict[str, Any]) -> dict[str, Any]:
    """Go through every step and back by the host's own `back`; the access log proves who answered each request.

    Passed means: no request failed, all of them were answered by Triton before and after, all by the gateway at 100 %.
    Raises NotProven where `back` could not go back.
    """
    switch.step(paths, config, percent=0, scope="rehearsal")
    run_id = f"rehearse-{time.time_ns()}"
    proof = [_look(paths, config, f"{run_id}-before", 0)]
    began = time.monotonic()
    steps = []
    for percent in sorted(config["switch"].get("steps", switch.STEPS)):
        steps.append(switch.step(paths, config, percent=percent, scope="rehearsal"))
        proof.append(_look(paths, config, f"{run_id}-{percent}", percent))
    there_s = time.monotonic() - began
    began = time.monotonic()
    way_back = back.run_back(paths, reason="rehearsal", scope="rehearsal")
    back_s = time.monotonic() - began
    proof.append(_look(paths, config, f"{run_id}-after", 0))
    return {
        "there_s": round(there_s, 3),
        "back_s": round(back_s, 3),
        "steps": steps,
        "back": way_back,
        "proof": proof,
        "passed": all(_proved(look) for look in proof),
    }


def _look(paths: Paths, config: dict[str, Any], name: str, percent: int) -> dict[str, Any]:
    port = int(config["switch"]["rehearsal_port"])
    replies = probes.generate(config, port, [f"{name}.{number}" for number in range(_REQUESTS_A_STEP)])
    failed = sum(reply.status != 200 for reply in replies)
    answered = _logged(paths, config, f"{name}.", _REQUESTS_A_STEP - failed)
    return {
        "percent": percent,
        "triton": answered.get("triton", 0),
        "gateway": answered.get("gateway", 0),
        "failed": failed,
    }


def _logged(paths: Paths, config: dict[str, Any], prefix: str, wanted: int) -> dict[str, int]:
    """Who answered, by the access log; nginx writes a line only after the client has its reply, so wait for them."""
    limit = time.monotonic() + _LOG_LIMIT_S
    while True:
        answered = traffic.answered_by(paths, traffic.rehearsal_log(config), prefix)
        if sum(answered.values()) >= wanted or time.monotonic() > limit:
            return answered
        time.sleep(0.05)


def _proved(look: dict[str, Any]) -> bool:
    everybody = {0: ("triton",), 100: ("gateway",)}.get(look["percent"], ("triton", "gateway"))
    return bool(look["failed"] == 0 and sum(look[upstream] for upstream in everybody) == _REQUESTS_A_STEP)
