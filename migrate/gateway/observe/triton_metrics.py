"""What Triton counts for each model version, and its text on the metrics page.

Names, help texts and reasons are those of Triton 2.51 on port 8002. The histogram is that of later releases, for
decoupled models under `--metrics-config histogram_latencies=true` (their `docs/user_guide/metrics.md`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate

_FIRST_RESPONSE_MS = (100, 500, 2000, 5000)


class Failure(StrEnum):
    """Why an inference failed, in Triton's words."""

    OTHER = "OTHER"
    BACKEND = "BACKEND"
    CANCELED = "CANCELED"
    REJECTED = "REJECTED"


@dataclass(slots=True)
class Totals:
    """What one model version did since it was loaded; times in nanoseconds."""

    is_decoupled: bool = False
    success: int = 0
    failures: dict[Failure, int] = field(default_factory=lambda: dict.fromkeys(Failure, 0))
    inferences: int = 0
    executions: int = 0
    request_ns: int = 0
    queue_ns: int = 0
    compute_input_ns: int = 0
    compute_infer_ns: int = 0
    compute_output_ns: int = 0
    pending: int = 0
    first_response_counts: list[int] = field(default_factory=lambda: [0] * (len(_FIRST_RESPONSE_MS) + 1))
    first_response_ms: float = 0.0


class Inference:
    """One request through one model; exactly one of `succeeded` and `failed` ends it, a second end is ignored."""

    __slots__ = ("_begun_ns", "_has_responded", "_is_over", "_started_ns", "_totals")

    def __init__(self, totals: Totals) -> None:
        self._totals = totals
        self._begun_ns = time.monotonic_ns()
        self._started_ns = 0
        self._has_responded = False
        self._is_over = False
        totals.pending += 1

    def executing(self) -> None:
        """It left the queue: vLLM is being asked."""
        if not self._started_ns:
            self._started_ns = time.monotonic_ns()
            self._totals.pending -= 1
            self._totals.queue_ns += self._started_ns - self._begun_ns

    def responded(self) -> None:
        """A response is there; the first one counts."""
        if not self._has_responded:
            self._has_responded = True
            milliseconds = (time.monotonic_ns() - self._begun_ns) / 1e6
            bucket = sum(milliseconds > bound for bound in _FIRST_RESPONSE_MS)
            self._totals.first_response_counts[bucket] += 1
            self._totals.first_response_ms += milliseconds

    def succeeded(self, inferences: int = 1) -> None:
        """All its responses are there; `inferences` is the size of its batch."""
        if self._ends():
            now_ns = time.monotonic_ns()
            self._totals.success += 1
            self._totals.inferences += inferences
            self._totals.executions += 1
            self._totals.request_ns += now_ns - self._begun_ns
            self._totals.compute_infer_ns += now_ns - self._started_ns

    def failed(self, reason: Failure) -> None:
        """It ended without its last response."""
        if self._ends():
            self._totals.failures[reason] += 1

    def _ends(self) -> bool:
        self.executing()
        is_first, self._is_over = not self._is_over, True
        return is_first


Models = Mapping[tuple[str, str], Totals]


def text(models: Models) -> str:
    """Prometheus text, format 0.0.4, by (model, version)."""
    return "".join(line + "\n" for line in _lines(models))


def _lines(models: Models) -> Iterator[str]:
    yield from _family("request_success", "Number of successful inference requests, all batch sizes", "counter")
    yield from _samples("request_success", ((_labels(key), totals.success) for key, totals in models.items()))
    yield from _family("request_failure", "Number of failed inference requests, all batch sizes", "counter")
    failures = (
        (_labels(key, reason=reason.value), count)
        for key, totals in models.items()
        for reason, count in totals.failures.items()
    )
    yield from _samples("request_failure", failures)
    for name, about, attribute in _COUNTERS:
        yield from _family(name, about, "counter")
        yield from _samples(name, ((_labels(key), getattr(totals, attribute)) for key, totals in models.items()))
    for name, about, attribute in _DURATIONS:
        yield from _family(name, about, "counter")
        durations = ((_labels(key), getattr(totals, attribute) // 1000) for key, totals in models.items())
        yield from _samples(name, durations)
    about = "Instantaneous number of pending requests awaiting execution per-model."
    yield from _family("pending_request_count", about, "gauge")
    yield from _samples("pending_request_count", ((_labels(key), totals.pending) for key, totals in models.items()))
    yield from _histogram({key: totals for key, totals in models.items() if totals.is_decoupled})


def _histogram(models: Models) -> Iterator[str]:
    name = "first_response_histogram_ms"
    if models:
        yield from _family(name, "Duration from request to first response in milliseconds", "histogram")
    for key, totals in models.items():
        counts = list(accumulate(totals.first_response_counts))
        bounds = [*map(str, _FIRST_RESPONSE_MS), "+Inf"]
        yield from _samples(f"{name}_count", [(_labels(key), counts[-1])])
        yield from _samples(f"{name}_sum", [(_labels(key), totals.first_response_ms)])
        buckets = ((_labels(key, le=bound), count) for bound, count in zip(bounds, counts, strict=True))
        yield from _samples(f"{name}_bucket", buckets)


def _family(name: str, about: str, kind: str) -> Iterator[str]:
    yield f"# HELP nv_inference_{name} {about}"
    yield f"# TYPE nv_inference_{name} {kind}"


def _samples(name: str, values: Iterable[tuple[str, int | float]]) -> Iterator[str]:
    for labels, value in values:
        yield f"nv_inference_{name}{{{labels}}} {value}"


def _labels(key: tuple[str, str], **more: str) -> str:
    labels = {"model": key[0], **more, "version": key[1]}
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


_COUNTERS = (
    ("count", "Number of inferences performed (does not include cached requests)", "inferences"),
    ("exec_count", "Number of model executions performed (does not include cached requests)", "executions"),
)
_DURATIONS = (
    (
        "request_duration_us",
        "Cumulative inference request duration in microseconds (includes cached requests)",
        "request_ns",
    ),
    (
        "queue_duration_us",
        "Cumulative inference queuing duration in microseconds (includes cached requests)",
        "queue_ns",
    ),
    (
        "compute_input_duration_us",
        "Cumulative compute input duration in microseconds (does not include cached requests)",
        "compute_input_ns",
    ),
    (
        "compute_infer_duration_us",
        "Cumulative compute inference duration in microseconds (does not include cached requests)",
        "compute_infer_ns",
    ),
    (
        "compute_output_duration_us",
        "Cumulative inference compute output duration in microseconds (does not include cached requests)",
        "compute_output_ns",
    ),
)
