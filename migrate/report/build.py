"""Builds the report (design §4) from what lies in a run's directory.

It never raises for a piece that is missing or damaged: the piece is named under `missing`, and what depends on it reads
`missing`, `unknown` or `not started`, never `pass`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from migrate import status
from migrate.report import history

SCHEMA = 1
_PLAN_KEYS = ("id", "created", "expires", "strategy", "strategy_reason", "tool_version", "routes_kept")
_WITNESS_KEYS = ("sent", "answered", "failed", "failed_in_announced_gap", "longest_gap_ms")


def build(run_dir: Path) -> dict[str, Any]:
    """The report of the run in `run_dir`, as JSON types."""
    missing: list[str] = []
    records, chain = _journal(run_dir / "journal.jsonl", missing)
    plan = _object(run_dir / "plan.json", missing) or history.plan(records)
    witness = _witness(run_dir / "witness.json", missing)
    host = str(plan.get("host") or "missing")
    phases = history.phases(records, plan.get("phases") or [])
    serving, back = history.serving(records), history.way_back(records)
    state = history.state(records)
    following = history.next_command(state, serving, host)
    return {
        "schema": SCHEMA,
        "run": run_dir.name,
        "host": host,
        "status": status.line(serving, history.back_text(back), following),
        "plan": {key: plan.get(key) for key in _PLAN_KEYS},
        "outcome": {"state": state, "serving": serving, "next": following},
        "phases": phases,
        "witness": witness,
        "rollback": back,
        "expectations": list(plan.get("expectations") or []),
        "environment": _environment(plan, _optional(run_dir / "facts.json", missing), phases)
        | history.process(records),
        "journal": {"records": len(records), "chain": chain},
        "raw": _raw(run_dir / "raw"),
        "missing": missing,
    }


def _object(path: Path, missing: list[str]) -> dict[str, Any]:
    if not path.exists():
        missing.append(f"{path.name}: not there")
        return {}
    return _optional(path, missing)


def _optional(path: Path, missing: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        missing.append(f"{path.name}: not readable: {error}")
        return {}
    if not isinstance(value, dict):
        missing.append(f"{path.name}: no JSON object")
        return {}
    return value


def _journal(path: Path, missing: list[str]) -> tuple[list[dict[str, Any]], str]:
    """The records up to the first damaged one, and whether each carries the hash of the line before it."""
    if not path.exists():
        missing.append(f"{path.name}: not there")
        return [], "missing"
    records: list[dict[str, Any]] = []
    previous = "0" * 64
    for number, line in enumerate(path.read_text("utf-8", errors="replace").split("\n")[:-1], start=1):
        try:
            record = json.loads(line)
            intact = record["prev"] == previous and bool(record["kind"]) and isinstance(record["data"], dict)
        except (ValueError, TypeError, KeyError):
            intact = False
        if not intact:
            missing.append(f"{path.name}: broken at line {number}; what follows is left out")
            return records, f"broken at line {number}"
        previous = hashlib.sha256(line.encode()).hexdigest()
        records.append(record)
    return records, "intact" if records else "empty"


def _witness(path: Path, missing: list[str]) -> dict[str, Any] | None:
    seen = _object(path, missing)
    return {key: seen.get(key) for key in _WITNESS_KEYS} | seen if seen else None


def _environment(plan: Mapping[str, Any], facts: Mapping[str, Any], phases: Sequence[Any]) -> dict[str, Any]:
    settings, system = plan.get("settings") or {}, facts.get("os") or {}
    environment = {
        "tool": plan.get("tool_version"),
        "playbooks": plan.get("playbooks"),
        "vllm image": settings.get("vllm_image"),
        "vllm image digest": plan.get("vllm_image_digest"),
        "vllm arguments": settings.get("vllm_args"),
        "system": system.get("pretty_name"),
        "note": system.get("lab_note"),
        "kernel": facts.get("kernel"),
    }
    environment |= {str(item["key"]): item.get("seen") for item in plan.get("read_set") or []}
    for phase in phases:
        for check in phase["checks"]:
            environment |= check["versions"]
    return {key: value for key, value in environment.items() if value is not None}


def _raw(directory: Path) -> list[dict[str, Any]]:
    """The raw files with their sha256, so that a reader can recompute the verdicts from what they were made of."""
    files = sorted(path for path in directory.rglob("*") if path.is_file()) if directory.is_dir() else []
    return [
        {
            "file": str(path.relative_to(directory.parent)),
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in files
    ]
