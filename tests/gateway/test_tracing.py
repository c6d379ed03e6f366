"""Spans where a collector is named, and nothing of OpenTelemetry otherwise."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from aiohttp import web
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from migrate.gateway.observe import tracing

from .conftest import VllmServer
from .front_serving import answering, config_of, front_serving

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@contextmanager
def collected() -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing._starter[:] = [tracing._starter_of(provider)]
    try:
        yield exporter
    finally:
        tracing._starter.clear()
        provider.shutdown()


BLOCKED = """
import sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")):
            raise ModuleNotFoundError("blocked", name=name)

sys.meta_path.insert(0, Guard())
from migrate.gateway import serving
from migrate.gateway.observe import tracing
from migrate.gateway.errors import ConfigError
assert tracing.start("GET /", "http", "1", None) is None
try:
    tracing.turn_on("http://127.0.0.1:4318/v1/traces", "gateway")
except ConfigError as error:
    print(error)
"""


def test_without_the_extra_everything_else_works() -> None:
    found = subprocess.run([sys.executable, "-c", BLOCKED], check=True, timeout=60, capture_output=True, text=True)
    assert "pip install 'migrate-triton-vllm[tracing]'" in found.stdout


def test_no_sdk_is_imported_where_tracing_is_off() -> None:
    code = "import sys, migrate.gateway.serving; sys.exit('opentelemetry.sdk' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


async def test_a_request_is_one_span_below_its_clients_and_above_vllms() -> None:
    heard = []

    async def vllm(request: web.Request) -> web.Response:
        heard.append(request.headers["traceparent"])
        return web.json_response({"choices": [{"text": ""}]})

    async with answering(vllm) as url, front_serving(config_of(url)) as gateway:
        with collected() as exporter:
            headers = {"traceparent": PARENT, "X-Request-Id": "order-17"}
            assert (await gateway.complete(**headers)).status == 200
        (span,) = exporter.get_finished_spans()
    assert span.name == "POST /v1/completions"
    assert span.parent is not None and f"{span.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert dict(span.attributes or {}) == {
        "gateway.protocol": "openai",
        "gateway.request_id": "order-17",
        "gateway.status": 200,
        "gateway.model": "phi-2",
    }
    assert heard == [f"00-4bf92f3577b34da6a3ce929d0e0e4736-{_id(span)}-01"]


@pytest.mark.parametrize("parent", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_a_span_without_a_parent(vllm: VllmServer, parent: str) -> None:
    async with front_serving(config_of(vllm.url)) as gateway:
        with collected() as exporter:
            await gateway.ask("GET", "/v2/health/live", headers={"traceparent": parent})
        (span,) = exporter.get_finished_spans()
    assert span.parent is None


async def test_off_a_clients_traceparent_still_reaches_vllm() -> None:
    heard = []

    async def vllm(request: web.Request) -> web.Response:
        heard.append(request.headers["traceparent"])
        return web.json_response({"choices": [{"text": ""}]})

    async with answering(vllm) as url, front_serving(config_of(url)) as gateway:
        await gateway.complete(traceparent=PARENT)
    assert heard == [PARENT]


def _id(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"{context.span_id:016x}"
