"""Heads and bodies that are too long or too slow, on the bytes of a connection."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator
from contextlib import closing, suppress

import pytest

from .conftest import VllmServer
from .front_serving import PATIENCE_S, Front, config_of, front_serving

LIMITS = {
    "max_body_bytes": 100_000,
    "max_head_bytes": 8192,
    "max_headers": 20,
    "head_timeout_s": 0.3,
    "body_timeout_s": 0.3,
}
HEAD = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
OPENAI, TRITON = b"/v1/completions", b"/v2/models/phi2/generate"
GOOD = b'{"model":"phi-2","prompt":"x","max_tokens":3,"stream":false}'


@pytest.fixture
async def gateway(vllm: VllmServer) -> AsyncIterator[Front]:
    async with front_serving(config_of(vllm.url, limits=LIMITS)) as found:
        yield found


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


def error_of(answer: bytes) -> str:
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    return str(error["message"] if isinstance(error, dict) else error)


async def test_the_limits_let_through_what_fits(gateway: Front, vllm: VllmServer) -> None:
    headers = b"".join(b"X-%d: %s\r\n" % (number, b"v" * 300) for number in range(15))
    body = GOOD.replace(b'"x"', b'"' + b"x" * 99_000 + b'"')
    length = b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = await gateway.raw(HEAD % OPENAI + headers + length + body)
    assert status_of(answer) == 200
    assert len(vllm.bodies[0]["prompt"]) == 99_000


@pytest.mark.parametrize("path", [OPENAI, TRITON])
@pytest.mark.parametrize(
    "flood",
    [
        b"".join(b"X-%d: v\r\n" % number for number in range(100)),
        b"X-Long: " + b"v" * 20_000 + b"\r\n",
        b"".join(b"X-%d: %s\r\n" % (number, b"v" * 1000) for number in range(15)),
    ],
)
async def test_a_head_that_is_too_large(gateway: Front, vllm: VllmServer, path: bytes, flood: bytes) -> None:
    answer = await gateway.raw(HEAD % path + flood + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD)
    assert status_of(answer) == 431
    assert vllm.bodies == []


async def test_a_path_that_is_too_long(gateway: Front) -> None:
    assert status_of(await gateway.raw(b"GET /v1/" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")) == 431


@pytest.mark.parametrize("piece", [b"X-%d: v\r\n", b"%d"])
async def test_a_head_without_end(gateway: Front, piece: bytes) -> None:
    flood = [b"".join(piece % number for number in range(500)) for _ in range(10)]
    assert status_of(await gateway.raw(HEAD % OPENAI + b"X-Endless: ", *flood, pause_s=0.01)) == 431


async def test_slow_loris(gateway: Front) -> None:
    head = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n"
    answer = await gateway.raw(head, *(b"X-%d: v\r\n" % number for number in range(20)), pause_s=0.05)
    assert status_of(answer) == 408


async def test_slow_loris_on_a_connection_in_use(gateway: Front) -> None:
    whole = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await gateway.raw(whole, b"GET /v2/heal", pause_s=0.1)
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b"HTTP/1.1 408" in answer


async def test_a_connection_that_says_nothing(gateway: Front) -> None:
    assert await gateway.raw() == b""


async def test_a_quiet_connection_stays_between_requests(gateway: Front) -> None:
    whole = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n%s\r\n"
    answer = await gateway.raw(whole % b"", whole % b"Connection: close\r\n", pause_s=0.6)
    assert answer.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("path", [OPENAI, TRITON])
async def test_a_body_of_ten_gigabytes_is_refused_unread(gateway: Front, vllm: VllmServer, path: bytes) -> None:
    answer = await gateway.raw(HEAD % path + b"Content-Length: 10000000000\r\n\r\n")
    assert (status_of(answer), error_of(answer)) == (413, "the request is longer than 100000 bytes")
    assert b"connection: close" in answer
    assert b"100 Continue" not in answer
    assert vllm.bodies == []


async def test_a_client_that_asks_before_it_sends_ten_gigabytes(gateway: Front) -> None:
    head = HEAD % OPENAI + b"Expect: 100-continue\r\nContent-Length: 10000000000\r\n\r\n"
    answer = await gateway.raw(head)
    assert status_of(answer) == 413


async def test_a_client_that_reads_only_after_its_long_body_gets_the_refusal(gateway: Front) -> None:
    def ask() -> int:
        with closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=PATIENCE_S)) as connection:
            connection.connect()
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            connection.request("POST", OPENAI.decode(), b"x" * 1_000_000)
            return connection.getresponse().status

    assert await asyncio.to_thread(ask) == 413


@pytest.mark.parametrize("path", [OPENAI, TRITON])
async def test_a_body_without_a_length_that_is_too_long(gateway: Front, vllm: VllmServer, path: bytes) -> None:
    blocks = [b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 2
    answer = await gateway.raw(HEAD % path + b"Transfer-Encoding: chunked\r\n\r\n", *blocks, pause_s=0.01)
    assert (status_of(answer), error_of(answer)) == (413, "the request is longer than 100000 bytes")
    assert vllm.bodies == []


@pytest.mark.parametrize("path", [OPENAI, TRITON])
async def test_a_body_that_stops_coming(gateway: Front, vllm: VllmServer, path: bytes) -> None:
    answer = await gateway.raw(HEAD % path + b"Content-Length: 100\r\n\r\n", b'{"model"')
    assert (status_of(answer), error_of(answer)) == (408, "nothing of the request's body has come for 0.3 s")
    assert vllm.bodies == []


@pytest.mark.parametrize("end", [b"0\r\n", b"5;ext="])
async def test_bytes_that_are_no_body(gateway: Front, end: bytes) -> None:
    """Trailers and chunk extensions would be kept or skipped without end."""
    floods = [b"X-Trailer: v\r\n" * 300] * 10 if end.startswith(b"0") else [b"v" * 4000] * 10
    begin = HEAD % OPENAI + b"Transfer-Encoding: chunked\r\n\r\n" + end
    answer = await gateway.raw(begin, *floods, pause_s=0.01)
    assert b" 200 " not in answer[:20]


@pytest.mark.parametrize(
    "head",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999999\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-\x00: v\r\n\r\n",
    ],
)
async def test_what_is_not_http(gateway: Front, head: bytes) -> None:
    assert status_of(await gateway.raw(head)) == 400


async def test_others_are_served_meanwhile(gateway: Front) -> None:
    slow = [asyncio.create_task(gateway.raw(HEAD % OPENAI, b"X: v\r\n", pause_s=0.1)) for _ in range(50)]
    await asyncio.sleep(0.1)
    async with asyncio.timeout(PATIENCE_S):
        assert (await gateway.ask("GET", "/v2/health/live")).status == 200
    for task in slow:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
