"""What a model has done since it was loaded, in Triton's words (`docs/protocol/extension_statistics.md`)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

_PHASES = ("compute_input", "compute_infer", "compute_output")


@dataclass(slots=True)
class Durations:
    """How often, and for how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """One more."""
        self.count += 1
        self.ns += ns

    def as_json(self) -> dict[str, int]:
        """Triton's StatisticDuration."""
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class Statistics:
    """Counts of one model version. All the time of a request counts as inference: it is spent in vLLM."""

    last_inference_ms: int = 0
    inference_count: int = 0
    success: Durations = field(default_factory=Durations)
    fail: Durations = field(default_factory=Durations)
    batches: dict[int, Durations] = field(default_factory=dict)

    def succeeded(self, batch_size: int, ns: int) -> None:
        """A request was answered in `ns` nanoseconds."""
        self.last_inference_ms = time.time_ns() // 1_000_000
        self.inference_count += batch_size
        self.success.add(ns)
        self.batches.setdefault(batch_size, Durations()).add(ns)

    def failed(self, ns: int) -> None:
        """A request of this model ended in an error after `ns` nanoseconds."""
        self.fail.add(ns)

    def as_json(self) -> dict[str, Any]:
        """Triton's ModelStatistics, without name and version."""
        nothing = {"count": self.success.count, "ns": 0}
        phases = {"compute_input": nothing, "compute_infer": self.success.as_json(), "compute_output": nothing}
        never = {"count": 0, "ns": 0}
        return {
            "last_inference": self.last_inference_ms,
            "inference_count": self.inference_count,
            "execution_count": self.success.count,
            "inference_stats": {
                "success": self.success.as_json(),
                "fail": self.fail.as_json(),
                "queue": nothing,
                **phases,
                "cache_hit": never,
                "cache_miss": never,
            },
            "response_stats": {},
            "batch_stats": [_batch(size, spent) for size, spent in sorted(self.batches.items())],
            "memory_usage": [],
        }


def _batch(size: int, spent: Durations) -> dict[str, Any]:
    nothing = {"count": spent.count, "ns": 0}
    return {"batch_size": size} | {phase: spent.as_json() if phase == "compute_infer" else nothing for phase in _PHASES}
