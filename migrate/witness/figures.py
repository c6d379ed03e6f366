"""Figures from the witness's records: how many were answered, the longest silence, and whether the logs agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from migrate.witness.records import Record

SHOWN = 20
Gap = tuple[datetime, datetime]


def summarise(records: Iterable[Record], gaps: Sequence[Gap] = ()) -> dict[str, Any]:
    """Counts, the longest time in ms in which no answer ended, and the first 20 failures with their reason.

    `gaps` are announced interruptions, as aware (start, end). A failure that overlaps one counts as
    `failed_in_announced_gap` and not as `failed`: sent = answered + failed + failed_in_announced_gap.
    """
    by_kind: dict[str, Counter[str]] = {}
    failures: list[dict[str, Any]] = []
    ends: list[datetime] = []
    span: list[datetime] = []
    for record in records:
        began, ended = record.began, record.ended
        span = [min(span[0], began), max(span[1], ended)] if span else [began, ended]
        outcome = _outcome(record, gaps)
        by_kind.setdefault(record.kind, Counter()).update({"sent": 1, outcome: 1})
        if outcome == "answered":
            ends.append(ended)
        elif outcome == "failed" and len(failures) < SHOWN:
            failures.append(_failure(record))
    counts = sum(by_kind.values(), Counter[str]())
    return _counts(counts) | {
        "longest_gap_ms": _longest_gap_ms(span, ends),
        "by_kind": {kind: _counts(by_kind[kind]) for kind in sorted(by_kind)},
        "failures": failures,
    }


def reconcile(records: Iterable[Record], ids_from_logs: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the records with hostctl's `ids` output, `{"ids": {id: {"status", "upstream"}}}`.

    Every request whose answer began must be in a log with the same status, and every id in the logs must be a request
    of the witness. A request that got no answer may be missing there, but may not be logged as a success. The lists
    show 20 at most, `counts` has their true lengths. Nothing sent is not reconciled.
    """
    logged: Mapping[str, Mapping[str, Any]] = ids_from_logs["ids"]
    known: set[str] = set()
    unlogged: list[str] = []
    differs: list[dict[str, Any]] = []
    for record in records:
        known.add(record.id)
        entry = logged.get(record.id)
        if entry is None:
            if record.status is not None:
                unlogged.append(record.id)
        elif entry["status"] != record.status and (record.status is not None or entry["status"] < 400):
            differs.append({"id": record.id, "witness": record.status, "log": entry["status"], "reason": record.error})
    unknown = sorted(set(logged) - known)
    return {
        "reconciled": bool(known) and not (unlogged or unknown or differs),
        "unlogged": unlogged[:SHOWN],
        "unknown_in_logs": unknown[:SHOWN],
        "status_differs": differs[:SHOWN],
        "by_upstream": dict(sorted(Counter(str(entry["upstream"]) for entry in logged.values()).items())),
        "counts": {"unlogged": len(unlogged), "unknown_in_logs": len(unknown), "status_differs": len(differs)},
    }


def _outcome(record: Record, gaps: Sequence[Gap]) -> str:
    if record.is_answered:
        return "answered"
    announced = any(record.began <= end and start <= record.ended for start, end in gaps)
    return "failed_in_announced_gap" if announced else "failed"


def _counts(found: Mapping[str, int]) -> dict[str, Any]:
    return {name: found.get(name, 0) for name in ("sent", "answered", "failed", "failed_in_announced_gap")}


def _failure(record: Record) -> dict[str, Any]:
    shown = ("id", "kind", "model", "sent_at", "latency_s", "status")
    return {name: getattr(record, name) for name in shown} | {"reason": record.error}


def _longest_gap_ms(span: Sequence[datetime], ends: Sequence[datetime]) -> float:
    """Between two answers, and from the first request and to the last end."""
    if not span:
        return 0.0
    moments = [span[0], *sorted(ends), span[1]]
    return round(max((after - before).total_seconds() for before, after in pairwise(moments)) * 1000, 1)
