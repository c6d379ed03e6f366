"""The watcher after all traffic has moved: compares with Triton's baseline and goes back by itself."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import back, probes, switch, traffic
from .errors import HostctlError, NotProven, Refused
from .system import Paths, iso, now, parse_iso, run, write_atomic

UNIT = "migrate-soak.service"
_BASELINE_WINDOW_S = 3600
_BURN_WINDOW_S = 30
_BURN_REQUESTS = 10
_DEAD_PROBES = 3


def arm(paths: Paths, config: dict[str, Any], *, baseline_p95_s: float | None) -> dict[str, Any]:
    """Start watching. The baseline is Triton's p95 in the switch's log of the last hour, or else of five probes."""
    if switch.percent(paths, config, "live") != 100:
        raise Refused("soak watches 100 %, and traffic is not there", "hostctl switch status")
    baseline = baseline_p95_s or _baseline(paths, config)
    state = {"state": "watching", "since": iso(now()), "baseline_p95_s": baseline, "reason": None}
    _write(paths, state | {"requests": 0, "error_rate": 0.0, "p95_s": 0.0})
    run(["systemctl", "reset-failed", UNIT], check=False)
    run(["systemctl", "enable", UNIT])
    run(["systemctl", "restart", UNIT])
    return status(paths)


def disarm(paths: Paths) -> dict[str, Any]:
    """Stop watching; what was seen stays on record."""
    run(["systemctl", "disable", "--now", UNIT], check=False)
    seen = status(paths)
    if seen["state"] == "watching":
        _write(paths, seen | {"state": "stopped"})
    return status(paths)


def status(paths: Paths) -> dict[str, Any]:
    """What the watcher saw last; state `none` where it was never armed."""
    try:
        return dict(json.loads(_file(paths).read_text()))
    except FileNotFoundError:
        return {"state": "none"}


def watch(paths: Paths, config: dict[str, Any]) -> dict[str, Any]:
    """Look every `interval_s` until the soak has passed or traffic went back; started and restarted by the unit."""
    state = status(paths)
    if state["state"] == "watching":
        watcher = Watcher(paths, config, state["baseline_p95_s"], parse_iso(state["since"]))
    while state["state"] == "watching":
        time.sleep(config["soak"]["interval_s"])
        state = status(paths)
        if state["state"] == "watching":
            state = state | watcher.look()
            _write(paths, state)
    run(["systemctl", "disable", UNIT], check=False)
    return state


@dataclass
class Watcher:
    """One soak: what it saw so far, and what it decides from that."""

    paths: Paths
    config: dict[str, Any]
    baseline_p95_s: float
    since: float
    seen: list[traffic.Request] = field(default_factory=list)
    dead: int = 0
    follower: traffic.Follower = field(init=False)

    def __post_init__(self) -> None:
        self.follower = traffic.Follower(self.paths.at(self.config["switch"]["access_log"]))

    def look(self) -> dict[str, Any]:
        """Read what is new, decide, act; returns the changes to the soak's state."""
        self.seen += [r for r in self.follower.new() if r.at >= self.since and r.upstream == "gateway"]
        figures = _figures(self.seen)
        if switch.percent(self.paths, self.config, "live") != 100:
            return figures | {"state": "went_back", "reason": "traffic left 100 %: somebody or a reboot took it back"}
        reason = self._burning()
        if reason:
            return figures | self._go_back(reason)
        if self.dead or now() - self.since < self.config["soak"]["duration_s"]:
            return figures
        return figures | self._finish(figures)

    def _burning(self) -> str | None:
        alive = probes.probe(self.config, target="gateway")
        self.dead = 0 if alive["ok"] else self.dead + 1
        if self.dead >= _DEAD_PROBES:
            return f"the gateway failed {self.dead} probes in a row: {alive['error']}"
        recent = [r for r in self.seen if r.at >= now() - _BURN_WINDOW_S]
        return self._judge(_figures(recent)) if len(recent) >= _BURN_REQUESTS else None

    def _judge(self, figures: dict[str, Any]) -> str | None:
        soak = self.config["soak"]
        if figures["error_rate"] > soak["max_error_rate"]:
            return f"error rate {figures['error_rate']:.2%}, allowed {soak['max_error_rate']:.2%}"
        allowed = soak["max_p95_ratio"] * self.baseline_p95_s
        if figures["p95_s"] > allowed:
            return f"p95 {figures['p95_s']:.3f} s, allowed {allowed:.3f} s"
        return None

    def _go_back(self, reason: str) -> dict[str, Any]:
        try:
            done = back.run_back(self.paths, reason=f"soak: {reason}")
        except NotProven as error:
            return {"reason": f"{reason}; the way back failed and is tried again: {error}"}
        return {"state": "went_back", "reason": reason, "back": done}

    def _finish(self, figures: dict[str, Any]) -> dict[str, Any]:
        missing = self.config["soak"]["min_requests"] - figures["requests"]
        if missing > 0:
            probes.synthetic(self.config, count=min(missing, 100))
            return {"reason": f"{missing} requests were missing; filled with synthetic ones"}
        reason = self._judge(figures)
        return self._go_back(reason) if reason else {"state": "passed", "finished": iso(now())}


def _baseline(paths: Paths, config: dict[str, Any]) -> float:
    seen = traffic.window(paths, config, since=iso(now() - _BASELINE_WINDOW_S))["by_upstream"]["triton"]
    if seen["requests"] >= _BURN_REQUESTS:
        return float(seen["p95_s"])
    answers = [probes.probe(config, target="triton") for _ in range(5)]
    if not all(answer["ok"] for answer in answers):
        raise HostctlError(f"no baseline: Triton does not answer: {answers[-1]['error']}", "give --baseline-p95-s")
    return max(float(answer["latency_s"]) for answer in answers)


def _figures(requests: list[traffic.Request]) -> dict[str, Any]:
    errors = sum(r.status >= 500 for r in requests)
    p95_s = traffic.percentile([r.seconds for r in requests], 0.95)
    return {"requests": len(requests), "error_rate": errors / len(requests) if requests else 0.0, "p95_s": p95_s}


def _file(paths: Paths) -> Path:
    return paths.state / "soak.json"


def _write(paths: Paths, state: dict[str, Any]) -> None:
    write_atomic(_file(paths), json.dumps(state) + "\n")
