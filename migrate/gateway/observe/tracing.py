"""OpenTelemetry spans, one a request, where the configuration names a collector; nothing is imported otherwise.

Needs the extra `tracing`. A client's `traceparent` becomes the span's parent, and vLLM gets the span's own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

from migrate.gateway.errors import ConfigError


class Span(Protocol):
    """One request, on its way to the collector when it has ended."""

    def end(self, status: int | str, model: str) -> None: ...


_Starter = Callable[[str, str, str, str | None], Span]
_starter: list[_Starter] = []
# The W3C header of the span that this task works under; "" where tracing is off.
traceparent: ContextVar[str] = ContextVar("traceparent", default="")


def start(operation: str, protocol: str, request_id: str, parent: str | None) -> Span | None:
    """A span for the request of this task; None where tracing is off."""
    if not _starter:
        return None
    return _starter[0](operation, protocol, request_id, parent)


def turn_on(endpoint: str, service: str) -> Callable[[], None]:
    """Send spans to the collector's OTLP address, http://HOST:4318/v1/traces; the result flushes and stops it.

    Raises ConfigError where the extra `tracing` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(
            f"tracing.endpoint is set, but {error.name} is not installed: pip install 'migrate-triton-vllm[tracing]'"
        ) from None
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    _starter[:] = [_starter_of(provider)]

    def turn_off() -> None:
        _starter.clear()
        provider.shutdown()

    return turn_off


def _starter_of(provider: Any) -> _Starter:
    from opentelemetry.trace import SpanKind, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    tracer = provider.get_tracer("migrate.gateway")
    propagator = TraceContextTextMapPropagator()

    def begin(operation: str, protocol: str, request_id: str, parent: str | None) -> Span:
        context = propagator.extract({"traceparent": parent}) if parent else None
        attributes = {"gateway.protocol": protocol, "gateway.request_id": request_id}
        span = tracer.start_span(operation, context, SpanKind.SERVER, attributes)
        carrier: dict[str, str] = {}
        propagator.inject(carrier, set_span_in_context(span))
        traceparent.set(carrier.get("traceparent", ""))
        return _OpenSpan(span)

    return begin


class _OpenSpan:
    def __init__(self, span: Any) -> None:
        self._span = span

    def end(self, status: int | str, model: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attribute("gateway.status", status)
        self._span.set_attribute("gateway.model", model)
        if (isinstance(status, int) and status >= 500) or status in {"INTERNAL", "UNAVAILABLE"}:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()
