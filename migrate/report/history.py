"""What the journal's records say: the phases as they ran, what serves now, and how sure the way back is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from migrate import status
from migrate.gate import Outcome, Verdict
from migrate.phases import NAMES, get

Record = Mapping[str, Any]
UNKNOWN = "unknown"
NOT_STARTED = "not started"
_VERDICTS = {str(outcome) for outcome in Outcome}
_STEP = re.compile(r"(\d{1,3}) %")


def phases(records: Sequence[Record], planned: Sequence[Record]) -> list[dict[str, Any]]:
    """One entry per attempt in order of time, ways back with direction `back`; then what was not begun."""
    plans = {str(plan.get("phase")): plan for plan in planned}
    entries: list[dict[str, Any]] = []
    for record in records:
        kind, phase, step = record["kind"], str(record["phase"]), record["data"].get("step")
        if kind == "intent" or (kind == "rollback" and step == "intent"):
            entries.append(_begun(record, plans.get(phase, {})))
        elif kind == "outcome" or (kind == "rollback" and step == "outcome"):
            _close(entries, record, plans.get(phase, {}))
    started = {entry["phase"] for entry in entries if entry["direction"] == "forward"}
    return entries + [_entry(name, plan) for name, plan in plans.items() if name not in started]


def plan(records: Sequence[Record]) -> Record:
    """The plan as the run's start recorded it; empty where no start is recorded."""
    found = (record["data"].get("plan") for record in records if record["kind"] == "start")
    return next((plan for plan in found if isinstance(plan, dict)), {})


def process(records: Sequence[Record]) -> dict[str, Any]:
    """What `migrate` itself needed, as the last finish that measured it recorded it."""
    found = [record["data"].get("peak_memory_mib") for record in records if record["kind"] == "finish"]
    peaks = [peak for peak in found if peak is not None]
    return {"peak memory of migrate, MiB": peaks[-1]} if peaks else {}


def serving(records: Sequence[Record]) -> str:
    """What serves, as the journal knows it: `triton 100 %`, `vllm 25 %`, `unknown`."""
    now, is_moving = "triton 100 %", False
    for record in records:
        kind, data = record["kind"], record["data"]
        if kind == "intent" and _moves_traffic(record):
            is_moving = True
        elif kind == "note" and (step := _STEP.fullmatch(str(data.get("what", "")))):
            now = f"vllm {step[1]} %"
        elif kind == "outcome" and _moves_traffic(record):
            is_moving = not _held(data)
        elif kind == "rollback" and _moves_traffic(record):
            is_moving = not data.get("undone")
            now = now if is_moving else "triton 100 %"
    return UNKNOWN if is_moving else now


def way_back(records: Sequence[Record]) -> dict[str, Any]:
    """`{"ready": proven|unproven|degraded, "last_s", "at", "detail"}` from the last rehearsal or real way back."""
    back = {"ready": "unproven", "last_s": None, "at": None, "detail": "never rehearsed"}
    before = back
    for record in records:
        data = record["data"]
        if record["kind"] == "note" and data.get("what") == "rehearsed":
            back = _readiness(bool(data.get("passed")), data.get("back_s"), record, "rehearsal")
        elif record["kind"] == "rollback" and _moves_traffic(record) and data.get("step") == "intent":
            before, back = back, _readiness(False, None, record, "a way back was begun and its end is not recorded")
        elif record["kind"] == "rollback" and _moves_traffic(record):
            back = _taken(record, before)
    return back


def back_text(back: Record) -> str:
    """The way back's part of the status line."""
    if back["ready"] != "proven":
        return f"{str(back['ready']).upper()} ({back['detail']})"
    seconds = "time not recorded" if back["last_s"] is None else f"{float(back['last_s']):.1f} s"
    return f"PROVEN {seconds} (at {back['at']})"


def state(records: Sequence[Record]) -> str:
    """How the run ended: the `result` of its last finish record, or `unfinished`; `missing` without any record."""
    if not records:
        return "missing"
    ends = [record for record in records if record["kind"] in ("start", "finish")]
    return str((ends[-1]["data"].get("result") if ends else "") or "unfinished")


def next_command(state: str, serving: str, host: str) -> str:
    """What to type next."""
    if serving == UNKNOWN or state == "missing":
        return f"migrate status --host {host}"
    return status.after("" if state == "unfinished" else state, host)


def _entry(phase: str, plan: Record) -> dict[str, Any]:
    return {
        "phase": phase,
        "direction": "forward",
        "verdict": NOT_STARTED,
        "started": None,
        "duration_s": None,
        "accepted": None,
        "reason": None,
        "checks": [],
        "does": plan.get("does"),
        "kind": plan.get("kind"),
        "estimate_s": plan.get("estimate_s"),
        "undo": plan.get("undo"),
        "steps": list(plan.get("steps") or []),
    }


def _begun(record: Record, plan: Record) -> dict[str, Any]:
    direction = _direction(record)
    begun = {"direction": direction, "verdict": UNKNOWN, "started": record.get("at")}
    if direction == "back":
        begun |= {"steps": [], "does": "goes back", "reason": record["data"].get("reason")}
    return _entry(str(record["phase"]), plan) | begun


def _close(entries: list[dict[str, Any]], record: Record, plan: Record) -> None:
    data, phase, direction = record["data"], record["phase"], _direction(record)
    is_open = [e for e in entries if (e["phase"], e["direction"], e["verdict"]) == (phase, direction, UNKNOWN)]
    entry = is_open[-1] if is_open else _begun(record, plan)
    if not is_open:
        entries.append(entry)
    verdict = str(data.get("verdict", "missing"))
    entry["verdict"] = verdict if verdict in _VERDICTS else "missing"
    entry["duration_s"] = data.get("duration_s")
    entry["accepted"] = data.get("accepted")
    entry["checks"] = [_check(check) for check in data.get("verdicts") or []]


def _check(data: Any) -> dict[str, Any]:
    try:
        return Verdict.parse(data).as_json()
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        return Verdict("unreadable verdict", Outcome.ERROR, detail=f"{type(error).__name__}: {error}").as_json()


def _direction(record: Record) -> str:
    return str(record["data"].get("direction") or ("back" if record["kind"] == "rollback" else "forward"))


def _moves_traffic(record: Record) -> bool:
    return record["phase"] in NAMES and get(str(record["phase"])).moves_traffic


def _held(data: Record) -> bool:
    return data.get("verdict") == "pass" or bool(data.get("accepted"))


def _taken(record: Record, before: dict[str, Any]) -> dict[str, Any]:
    """The readiness after a way back: a rollback that had no traffic to move proves nothing and spoils nothing."""
    data = record["data"]
    if data.get("undone") and data.get("took_s") is None:
        return before
    return _readiness(bool(data.get("undone")), data.get("took_s"), record, "the way back itself")


def _readiness(is_proven: bool, seconds: Any, record: Record, detail: str) -> dict[str, Any]:
    ready = "proven" if is_proven else "degraded"
    return {"ready": ready, "last_s": seconds if is_proven else None, "at": record.get("at"), "detail": detail}
