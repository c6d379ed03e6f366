"""A run's directory as `migrate` leaves it, for the report's tests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

PHASES = (
    ("preflight", "makes sure that the host can do it and that Triton serves"),
    ("snapshot", "records the Triton stack so that it can be rebuilt"),
    ("provision", "makes sure of Docker, driver, CUDA and NCCL"),
    ("stage", "fetches the vLLM image by digest"),
    ("deploy", "starts vLLM and the gateway beside Triton"),
    ("parity", "compares vLLM's answers with Triton's"),
    ("performance", "measures vLLM beside Triton"),
    ("rehearse", "makes the cutover and the way back on a private listener"),
    ("cutover", "moves traffic in steps, watched"),
    ("soak", "a watcher on the host goes back by itself"),
)


def verdict(check: str, outcome: str = "pass", **fields: Any) -> dict[str, Any]:
    """A verdict's JSON object."""
    empty = {"expected": "as wanted", "measured": "as found", "detail": "", "advice": "", "duration_s": 0.4}
    return {"check": check, "verdict": outcome, **empty, "versions": {}, **fields}


def plan() -> dict[str, Any]:
    """A plan with every phase of design §2."""
    steps = [{"what": "traffic", "before": "triton 100 %", "after": "vllm 100 %", "why": "watched", "impact": "none"}]
    return {
        "schema": 1,
        "tool_version": "0.1.0",
        "host": "gpu01",
        "created": "2026-11-21T11:00:00Z",
        "expires": "2026-11-24T11:00:00Z",
        "strategy": "side-by-side",
        "strategy_reason": "no GPU: both run on the CPU, vLLM within 6g of memory",
        "settings": {"vllm_image": "registry.lab:5000/vllm-openai:v0.31.0", "vllm_args": {"dtype": "float32"}},
        "playbooks": "sha256:1f",
        "vllm_image_digest": "registry.lab:5000/vllm-openai@sha256:" + "ab" * 32,
        "read_set": [{"key": "os.version_id", "op": "==", "value": "24.04", "seen": "24.04"}],
        "phases": [
            {
                "phase": name,
                "does": does,
                "kind": "reversible",
                "estimate_s": 10,
                "undo": "",
                "steps": steps if name == "cutover" else [],
            }
            for name, does in PHASES
        ],
        "routes_kept": ["8081 grpc"],
        "id": "5e" * 32,
    }


class Run:
    """Builds a run's directory record by record."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._previous = "0" * 64
        self._count = 0
        (directory / "plan.json").write_text(json.dumps(plan()), encoding="utf-8")
        self.record("start", "", result="", plan=plan())

    def record(self, kind: str, phase: str, **data: Any) -> None:
        """Append one record to the journal, chained as `migrate.journal` does."""
        at = f"2026-11-21T11:{self._count // 4:02d}:{self._count % 4 * 15:02d}.000Z"
        body = {"seq": self._count, "at": at, "kind": kind, "phase": phase, "data": data, "prev": self._previous}
        line = json.dumps(body | {"token": 3}, sort_keys=True, separators=(",", ":"))
        with (self.directory / "journal.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._previous = hashlib.sha256(line.encode()).hexdigest()
        self._count += 1

    def phase(self, name: str, outcome: str = "pass", *verdicts: dict[str, Any], **data: Any) -> None:
        """A phase with its intent and its outcome."""
        self.record("intent", name)
        found = list(verdicts) or [verdict(f"{name}_done")]
        self.record(
            "outcome", name, **{"verdict": outcome, "verdicts": found, "duration_s": 12.3, "accepted": None} | data
        )

    def rehearsed(self, seconds: float = 3.1) -> None:
        """The note that a rehearsal leaves."""
        self.record("note", "rehearse", what="rehearsed", passed=True, there_s=1.2, back_s=seconds)


def migrated(directory: Path) -> Run:
    """A run that went through, with an accepted inconclusive phase, a witness and raw files."""
    run = Run(directory)
    run.phase(
        "preflight", "pass", verdict("host_os", expected="Ubuntu 24.04", measured="Ubuntu 24.04"), verdict("clock")
    )
    run.phase("snapshot")
    unknown = verdict(
        "gpu_driver", "inconclusive", expected="a GPU", measured="none", advice="accept it in the inventory"
    )
    run.phase("provision", "inconclusive", unknown, verdict("docker_engine"), accepted="the lab has no GPU")
    for name in ("stage", "deploy", "parity", "performance"):
        run.phase(name)
    run.record("intent", "rehearse")
    run.rehearsed()
    run.record("outcome", "rehearse", verdict="pass", verdicts=[verdict("rehearsal")], duration_s=9.0, accepted=None)
    run.record("intent", "cutover")
    for percent in (5, 25, 50, 100):
        run.record("note", "cutover", what=f"{percent} %", took_s=0.01)
    steps = [verdict(f"traffic at {percent} %", measured="41 of 812 requests") for percent in (5, 25, 50, 100)]
    run.record("outcome", "cutover", verdict="pass", verdicts=steps, duration_s=75.0, accepted=None)
    run.phase("soak")
    run.record("finish", "", result="migrated")
    witness = {"sent": 50534, "answered": 50534, "failed": 0, "failed_in_announced_gap": 0, "longest_gap_ms": 84}
    (directory / "witness.json").write_text(json.dumps(witness | {"reconciled": {"missing": 0}}), encoding="utf-8")
    (directory / "raw").mkdir(exist_ok=True)
    (directory / "raw" / "parity.jsonl").write_text("{}\n", encoding="utf-8")
    return run
