"""The metrics page, against what Triton 2.51 showed on its port 8002 (`triton_metrics.txt`)."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from aiohttp import web

from migrate.gateway.observe import metrics, triton_metrics
from migrate.gateway.observe.metrics import Failure
from migrate.gateway.observe.triton_metrics import Inference, Totals

from .conftest import VllmServer, event_stream, send_event
from .front_serving import PATIENCE_S, answering, config_of, front_serving

TRITON = Path(__file__).with_name("triton_metrics.txt").read_text()


def without_values(text: str) -> list[str]:
    return [line if line.startswith("#") else line.rsplit(" ", 1)[0] for line in text.splitlines()]


def value(page: str, sample: str) -> float:
    found = re.search(rf"^{re.escape(sample)} (\S+)$", page, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_model_has_the_series_that_triton_has() -> None:
    assert without_values(triton_metrics.text({("phi2", "1"): Totals()})) == without_values(TRITON)


def test_names_are_escaped() -> None:
    assert '{model="a\\"b\\\\c\\nd",version="1"}' in triton_metrics.text({('a"b\\c\nd', "1"): Totals()})


def test_an_inference_counts_once() -> None:
    totals = Totals(is_decoupled=True)
    inference = Inference(totals)
    assert totals.pending == 1
    inference.executing()
    assert totals.pending == 0
    inference.responded()
    inference.responded()
    inference.succeeded(4)
    inference.succeeded(4)
    inference.failed(Failure.CANCELED)
    assert (totals.success, totals.inferences, totals.executions) == (1, 4, 1)
    assert (totals.failures[Failure.CANCELED], totals.pending) == (0, 0)
    assert sum(totals.first_response_counts) == 1
    assert totals.request_ns >= totals.compute_infer_ns > 0


def test_a_failure_that_never_started_is_not_pending() -> None:
    totals = Totals()
    Inference(totals).failed(Failure.REJECTED)
    assert (totals.pending, totals.failures[Failure.REJECTED], totals.success) == (0, 1, 0)


@pytest.mark.parametrize(
    ("milliseconds", "counts"), [(99, [1, 1, 1, 1, 1]), (501, [0, 0, 1, 1, 1]), (6e3, [0] * 4 + [1])]
)
def test_the_histogram_of_a_decoupled_model(milliseconds: float, counts: list[int]) -> None:
    totals = Totals(is_decoupled=True)
    inference = Inference(totals)
    inference._begun_ns -= int(milliseconds * 1e6)
    inference.responded()
    text = triton_metrics.text({("words", "1"): totals})
    name = 'nv_inference_first_response_histogram_ms_bucket{model="words",le="%s",version="1"}'
    assert [value(text, name % bound) for bound in (100, 500, 2000, 5000, "+Inf")] == counts


async def test_requests_on_the_page(vllm: VllmServer) -> None:
    async def page() -> str:
        return (await gateway.ask("GET", "/metrics")).body.decode()

    async with front_serving(config_of(vllm.url)) as gateway:
        before = await page()
        await gateway.generate("phi2")
        await gateway.complete()
        await gateway.generate("no-such-model")
        after = await page()

    def grown(sample: str) -> float:
        return value(after, sample) - value(before, sample)

    assert grown('nv_inference_request_success{model="phi2",version="1"}') == 1
    assert grown('nv_inference_count{model="phi2",version="1"}') == 1
    assert grown('nv_inference_request_duration_us{model="phi2",version="1"}') > 0
    assert grown('gateway_requests_total{model="phi2",protocol="http",status="200"}') == 1
    assert grown('gateway_requests_total{model="phi-2",protocol="openai",status="200"}') == 1
    assert grown('gateway_requests_total{model="",protocol="http",status="404"}') == 1
    assert grown(f'gateway_upstream_requests_total{{status="200",upstream="{vllm.url}"}}') == 3
    assert "no-such-model" not in after
    assert "_created" not in after


async def test_a_request_is_pending_until_it_has_a_place(vllm: VllmServer) -> None:
    release = asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        await release.wait()
        return web.json_response({"choices": [{"text": ""}]})

    vllm.misbehave = wait
    pending = 'nv_inference_pending_request_count{model="phi2",version="1"}'
    async with front_serving(config_of(vllm.url, queue={"max_in_flight": 1})) as gateway:
        asking = [asyncio.create_task(gateway.generate()) for _ in range(3)]
        await asyncio.wait_for(vllm.started.wait(), PATIENCE_S)
        page = ""
        async with asyncio.timeout(PATIENCE_S):
            while value(page, pending) != 2:
                page = (await gateway.ask("GET", "/metrics")).body.decode()
        assert value(page, f'gateway_upstream_outstanding{{upstream="{vllm.url}"}}') == 1
        assert value(page, "gateway_upstream_waiting") == 2
        release.set()
        await asyncio.gather(*asking)
        assert value((await gateway.ask("GET", "/metrics")).body.decode(), pending) == 0


async def test_a_client_that_leaves_is_a_cancelled_inference() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        if request.path != "/v1/completions":
            return web.json_response({"data": []})
        response = await event_stream(request)
        while True:
            await send_event(response, {"choices": [{"text": " one"}]})
            await asyncio.sleep(0.01)

    cancelled = metrics.declare("phi2_stream", "1").failures
    before = cancelled[Failure.CANCELED]
    async with answering(endless) as url, front_serving(config_of(url)) as gateway:
        body = b'{"text_input":"x","stream":true}'
        path = gateway.url + "/v2/models/phi2_stream/generate_stream"
        async with gateway.session.post(path, data=body) as response:
            await response.content.readany()
        async with asyncio.timeout(PATIENCE_S):
            while cancelled[Failure.CANCELED] == before:
                await asyncio.sleep(0.01)


async def test_an_unloaded_model_leaves_the_page() -> None:
    metrics.declare("fleeting", "3")
    assert 'model="fleeting",version="3"' in metrics.page().decode()
    metrics.forget("fleeting", "3")
    assert 'model="fleeting"' not in metrics.page().decode()
