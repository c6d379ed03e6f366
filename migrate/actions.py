"""What the controller itself does in a phase, after its playbook: judge raw records, rehearse, move traffic, soak.

Each action takes the run and returns verdicts; `ACTIONS` maps the names that the rows of `phases.py` use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from migrate import evidence, runtimes
from migrate.context import Run
from migrate.errors import MigrateError
from migrate.gate import Outcome, Verdict
from migrate.journal import Kind

_POLL_S = 1.0
_FILL_AT_ONCE = 20
_FEW = 3


def judge_parity(run: Run) -> list[Verdict]:
    """Decide from the four arms' raw records."""
    # Loading scipy takes longer than most commands, of which few come here.
    from migrate.parity import judge as parity

    return parity.judge(_records(run, "parity"), run.settings.parity.max_mismatch_rate, run.settings.parity.seed)


def judge_performance(run: Run) -> list[Verdict]:
    """Decide from the interleaved blocks' raw records."""
    from migrate.performance import judge as performance

    return performance.judge(_records(run, "performance"), run.settings.performance.max_latency_ratio)


def rehearse(run: Run) -> list[Verdict]:
    """There and back on the private listener, by the same code path as the real cutover and way back."""
    seen = run.call("rehearse", timeout_s=180)
    _note(run, "rehearsed", {key: seen[key] for key in ("passed", "there_s", "back_s")}, phase="rehearse")
    shares = "; ".join(f"{p['percent']} %: {p['gateway']} of {p['triton'] + p['gateway']}" for p in seen["proof"])
    return [
        Verdict(
            "rehearsal",
            Outcome.PASS if seen["passed"] else Outcome.FAIL,
            "every step moves its share; the way back ends on Triton",
            f"there {seen['there_s']:.1f} s, back {seen['back_s']:.1f} s",
            f"answered by the gateway at {shares}",
            "" if seen["passed"] else "sudo /usr/local/lib/migrate/hostctl switch status, on the host",
            seen["there_s"] + seen["back_s"],
        )
    ]


def move_traffic(run: Run) -> list[Verdict]:
    """Arm the dead-man switch, redirect new connections to the switch, and raise vLLM's share step by step."""
    _note(run, "deadman", run.call("deadman", "arm", "--seconds", str(run.settings.deadman.timeout_s)))
    _note(run, "redirect", run.call("switch", "redirect", "on"))
    verdicts = []
    for percent in run.settings.switch.steps:
        run.stop.at_safe_point(f"before {percent} %")
        verdicts.append(_step(run, percent))
        if verdicts[-1].verdict in {Outcome.FAIL, Outcome.ERROR}:
            break
    # The dead-man's time runs anew from here, until the watcher on the host takes over.
    run.call("deadman", "arm", "--seconds", str(run.settings.deadman.timeout_s))
    return verdicts


def soak(run: Run) -> list[Verdict]:
    """Hand the watch to the host's own unit, let the dead-man switch go, wait, and commit."""
    run.call("soak", "arm")
    _note(run, "handed over", run.call("deadman", "confirm"))
    state = _await_soak(run)
    passed = state["state"] == "passed"
    if passed:
        _note(run, "committed", run.call("switch", "commit"))
    measured = f"{state.get('requests', 0)} requests, {state.get('error_rate', 0):.4f} errors, p95 {_ms(state)}"
    return [
        Verdict(
            "soak",
            Outcome.PASS if passed else Outcome.FAIL,
            f"{run.settings.soak.duration_s} s within the margins",
            measured,
            str(state.get("reason") or ""),
            "" if passed else f"why vLLM burnt: {runtimes.of(run.settings).logs}, on the host",
            float(run.settings.soak.duration_s),
        )
    ]


def go_back(run: Run, reason: str) -> dict[str, Any]:
    """Run the host's way back, then take the redirect, the watcher and the dead-man switch away."""
    moved = run.call("back", "--reason", reason, timeout_s=240)
    run.call("switch", "redirect", "off")
    run.call("soak", "disarm")
    run.call("deadman", "confirm")
    return moved


def _step(run: Run, percent: int) -> Verdict:
    switch = run.settings.switch
    since = run.clock()
    run.call("deadman", "arm", "--seconds", str(run.settings.deadman.timeout_s))
    moved = run.call("switch", "step", "--percent", str(percent))
    seen = _watch(run, since, percent)
    ours, theirs = _side(seen, "gateway"), _side(seen, "triton")
    error_rate = _rate(ours, "errors") if ours["requests"] else 1.0
    refused = _rate(ours, "refused") - _rate(theirs, "refused")
    baseline = theirs["p95_s"] or _earlier_p95(run)
    ratio = ours["p95_s"] / baseline if baseline else 0.0
    enough = ours["requests"] >= _wanted(switch.min_requests, percent) and baseline > 0
    good = error_rate <= switch.max_error_rate and ratio <= switch.max_p95_ratio
    # Clients are refused for faults of their own too: only what Triton did not refuse, and not once alone, counts.
    good = good and (ours["refused"] < _FEW or refused <= switch.max_error_rate)
    good = good and run.host.call("switch", "status")["percent"] == percent
    _note(run, f"{percent} %", {"took_s": moved.get("took_s"), "window": seen})
    share = f"{ours['requests']} of {ours['requests'] + theirs['requests']} requests"
    return Verdict(
        f"traffic at {percent} %",
        Outcome.INCONCLUSIVE if not enough and good else Outcome.PASS if good else Outcome.FAIL,
        f"errors ≤ {switch.max_error_rate:.2%}, p95 ≤ {switch.max_p95_ratio:.1f} × Triton's",
        f"{share}, errors {error_rate:.2%}, refused {refused:+.2%}, p95 {ours['p95_s'] * 1000:.0f} ms ({ratio:.2f} ×)",
        "" if enough else f"too few requests: {_wanted(switch.min_requests, percent)} wanted, and some of Triton's",
        duration_s=float(switch.step_s),
    )


def _rate(side: Mapping[str, Any], what: str) -> float:
    return float(side[what] / side["requests"]) if side["requests"] else 0.0


def _wanted(min_requests: int, percent: int) -> int:
    """Requests that vLLM must have answered at a step: its share of the minimum, at least one."""
    return max(1, min_requests * percent // 200)


def _watch(run: Run, since: str, percent: int) -> Mapping[str, Any]:
    """Wait the step out, filling it with synthetic requests where clients send too few."""
    switch = run.settings.switch
    deadline = time.monotonic() + switch.step_s
    limit = deadline + switch.step_s
    seen: Mapping[str, Any] = {}
    while True:
        time.sleep(_POLL_S)
        if run.stop.asked > 1:
            raise MigrateError("aborted by the operator")
        seen = run.host.call("window", "--since", since)
        late = time.monotonic() >= deadline
        enough = int(seen["total"]) >= switch.min_requests and _side(seen, "gateway")["requests"] > 0
        if (late and enough) or time.monotonic() >= limit:
            return seen
        if not enough and time.monotonic() >= deadline - switch.step_s / 2:
            run.host.call("synthetic", "--count", str(_FILL_AT_ONCE), timeout_s=120)


def _await_soak(run: Run) -> dict[str, Any]:
    limit = time.monotonic() + run.settings.soak.duration_s * 2 + 60
    while time.monotonic() < limit:
        state = run.host.call("soak", "status")
        if state["state"] != "watching":
            return state
        run.stop.at_safe_point("while the host's own unit migrate-soak watches")
        time.sleep(_POLL_S)
    return {"state": "lost", "reason": "the watcher on the host did not decide in time"}


def _side(seen: Mapping[str, Any], name: str) -> dict[str, Any]:
    empty = {"requests": 0, "errors": 0, "refused": 0, "p50_s": 0.0, "p95_s": 0.0, "p99_s": 0.0}
    found = (seen.get("by_upstream") or {}).get(name) or {}
    return empty | {key: value for key, value in found.items() if value is not None}


def _earlier_p95(run: Run) -> float:
    """Triton's p95 in seconds in the last step in which it still answered, 0.0 where there was none."""
    for record in reversed(run.journal.records):
        if record.kind is Kind.NOTE and "window" in record.data:
            p95 = _side(record.data["window"], "triton")["p95_s"]
            if p95:
                return float(p95)
    return 0.0


def _note(run: Run, what: str, data: Mapping[str, Any], phase: str = "cutover") -> None:
    run.journal.append(Kind.NOTE, phase, what=what, **data)


def _records(run: Run, phase: str) -> list[evidence.Record]:
    path = run.raw(phase)
    return evidence.read_records(path) if path.exists() else []


def _ms(state: Mapping[str, Any]) -> str:
    return f"{float(state.get('p95_s') or 0) * 1000:.0f} ms"


ACTIONS: Mapping[str, Callable[[Run], list[Verdict]]] = {
    "judge_parity": judge_parity,
    "judge_performance": judge_performance,
    "rehearse": rehearse,
    "move_traffic": move_traffic,
    "soak": soak,
}
