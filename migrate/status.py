"""What the host does now, in one line: who serves, whether the way back is proven, what to type next. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from migrate.journal import Kind, Record, State, finished, states
from migrate.phases import NAMES


def headline(host: str, status: Mapping[str, Any] | None, records: Sequence[Record], now: datetime) -> str:
    """`SERVING triton 100 % · BACK PROVEN 3.1 s (4 min ago) · NEXT migrate continue --host gpu01`.

    `status` is hostctl's answer, None where hostctl is not on the host.
    """
    return line(serving(status), back(status, records, now), following(host, records))


def line(serves: str, way_back: str, next_command: str) -> str:
    """The first line of every status, failure and report."""
    return f"SERVING {serves} · BACK {way_back} · NEXT {next_command}"


def serving(status: Mapping[str, Any] | None) -> str:
    """Who answers new requests."""
    switch = (status or {}).get("switch") or {}
    if "error" in switch:
        return f"unknown ({switch['error']})"
    percent = int(switch.get("percent") or 0) if switch.get("redirect") else 0
    if percent == 0:
        return "triton 100 %"
    return "vllm 100 %" if percent == 100 else f"triton {100 - percent} % vllm {percent} %"


def all_on_vllm(switch: Mapping[str, Any]) -> bool:
    """Whether every new request is led to vLLM, by hostctl's `switch status`: redirected, and with the whole share."""
    return bool(switch["redirect"]) and switch["percent"] == 100


def back(status: Mapping[str, Any] | None, records: Sequence[Record], now: datetime) -> str:
    """PROVEN with its seconds and age, UNPROVEN, or DEGRADED with the reason."""
    state = (status or {}).get("back") or {}
    degraded = state.get("degraded") or state.get("error")
    if degraded:
        return f"DEGRADED {degraded}"
    for record in reversed(records):
        seconds = _proof_s(record)
        if seconds is not None:
            return f"PROVEN {seconds:.1f} s ({age(record.at, now)} ago)"
    return "UNPROVEN"


def following(host: str, records: Sequence[Record]) -> str:
    """The next command to type."""
    return after(finished(records), host) if records else f"migrate plan --host {host}"


def after(result: str, host: str) -> str:
    """The next command for a journal's result: "" unfinished, "migrated", "retired" or "rolled back"."""
    if result == "migrated":
        return f"migrate retire --host {host}, or migrate rollback --host {host}"
    if result == "retired":
        return f"nothing; migrate rollback --host {host} still works, from the archive"
    if result == "rolled back":
        return f"migrate plan --host {host}"
    return f"migrate continue --host {host}, or migrate rollback --host {host}"


def phases(records: Sequence[Record]) -> dict[str, State]:
    """What is known of every phase."""
    return states(records, NAMES)


def age(at: str, now: datetime) -> str:
    """How long ago a UTC stamp was, in the largest unit that is at least one."""
    then = datetime.fromisoformat(at).astimezone(UTC)
    seconds = max(0, int((now - then).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _proof_s(record: Record) -> float | None:
    """Seconds that the way back took in a record that proves it: a passed rehearsal or a verified rollback."""
    if record.kind is Kind.ROLLBACK and record.data.get("undone") and record.data.get("took_s"):
        return float(record.data["took_s"])
    if record.kind is Kind.NOTE and record.data.get("what") == "rehearsed" and record.data.get("passed"):
        return float(record.data["back_s"])
    return None
