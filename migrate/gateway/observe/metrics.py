"""The metrics of this process: Triton's names for old dashboards, `gateway_*` for its own.

One store a process, because a process has one page. Who serves a model declares it; who runs an inference begins and
ends it; who answers a request observes it:

    metrics.declare("phi2", "1", is_decoupled=False)     the model appears on the page, from zero
    inference = metrics.begin("phi2", "1")               then .responded() .succeeded() or .failed(reason)
    metrics.observe("phi2", "grpc", "OK", 0.25)          once a request, whatever its outcome
"""

from __future__ import annotations

from contextvars import ContextVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from migrate.gateway.observe import triton_metrics
from migrate.gateway.observe.triton_metrics import Failure, Inference, Totals

__all__ = ["CONTENT_TYPE", "Failure", "Inference", "Totals", "begin", "declare", "forget", "observe", "page"]

CONTENT_TYPE = "text/plain; charset=utf-8"
_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

_models: dict[tuple[str, str], Totals] = {}
_names: set[str] = set()
_inference: ContextVar[Inference | None] = ContextVar("inference", default=None)
_registry = CollectorRegistry()
ProcessCollector(registry=_registry)
_requests = Counter("gateway_requests", "Requests answered", ["protocol", "model", "status"], registry=_registry)
_seconds = Histogram(
    "gateway_request_seconds",
    "Time from the head of a request to the end of its answer",
    ["protocol", "model"],
    buckets=_SECONDS,
    registry=_registry,
)
_refused = Counter("gateway_refused", "Requests turned away by a limit", ["reason"], registry=_registry)
_upstream_requests = Counter(
    "gateway_upstream_requests", "Requests to vLLM", ["upstream", "status"], registry=_registry
)
upstream_outstanding = Gauge(
    "gateway_upstream_outstanding", "Requests that this server is answering", ["upstream"], registry=_registry
)
upstream_up = Gauge("gateway_upstream_up", "1 while this server gets requests", ["upstream"], registry=_registry)
upstream_waiting = Gauge("gateway_upstream_waiting", "Requests that wait for a server's answer", registry=_registry)


def declare(model: str, version: str, *, is_decoupled: bool = False) -> Totals:
    """Show a model version on the page; gives the totals that its inferences add to."""
    know(model)
    return _models.setdefault((model, version), Totals(is_decoupled))


def know(model: str) -> None:
    """Let a name that is no Triton model appear in `gateway_*`."""
    _names.add(model)


def forget(model: str, version: str) -> None:
    """Take an unloaded model version off the page."""
    _models.pop((model, version), None)


def begin(model: str, version: str) -> Inference:
    """A valid request for a served model version has arrived; this task and those that it makes work for it.

    It is pending until one of them has a place at vLLM.
    """
    inference = Inference(declare(model, version))
    _inference.set(inference)
    return inference


def executing() -> None:
    """What this task works for has got its place at vLLM."""
    inference = _inference.get()
    if inference is not None:
        inference.executing()


def observe(model: str, protocol: str, status: int | str, seconds: float) -> None:
    """One answered request. `protocol`: http, openai or grpc; `status`: its HTTP status or the name of its gRPC code.

    A name that no model has counts as "", so that clients cannot make labels.
    """
    known = model if model in _names else ""
    _requests.labels(protocol, known, str(status)).inc()
    _seconds.labels(protocol, known).observe(seconds)


def refused(reason: str) -> None:
    """A limit turned a request away: queue, rate, concurrency, size or key."""
    _refused.labels(reason).inc()


def upstream_answered(upstream: str, status: int | str) -> None:
    """vLLM's status for one request, or what broke the connection."""
    _upstream_requests.labels(upstream, str(status)).inc()


def page() -> bytes:
    """The whole page, Prometheus text format 0.0.4. When each series was made nobody asks: that would double it."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    return triton_metrics.text(_models).encode("utf-8") + generate_latest(_registry)
