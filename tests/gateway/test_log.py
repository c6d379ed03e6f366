"""Log lines: JSON, one a line, with the request's id, and no prompt unless it is asked for."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from migrate.gateway.config import LoggingConfig
from migrate.gateway.observe import log

from .conftest import VllmServer
from .front_serving import config_of, front_serving


class Lines:
    def __init__(self) -> None:
        self.stream = io.StringIO()

    def set_up(self, **settings: Any) -> None:
        log.set_up(LoggingConfig.model_validate(settings), self.stream)

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [line for line in self.all if line["message"] == "request"]

    @property
    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    root = logging.getLogger()
    handlers, level, requests = root.handlers[:], root.level, log._requests[:]
    yield Lines()
    log._requests[:] = requests
    log._prompts.setLevel(logging.CRITICAL)
    root.handlers[:], root.level = handlers, level
    log.request_id.set("")


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        ("order-17", True),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736", True),
        ("x" * 128, True),
        (None, False),
        ("", False),
        ("x" * 129, False),
        ("two words", False),
        ("line\nbreak", False),
        ('a"b', False),
        ("é", False),
    ],
)
def test_which_ids_are_accepted(lines: Lines, given: str | None, is_kept: bool) -> None:
    accepted = log.accept(given)
    assert (accepted == given) is is_kept
    assert len(accepted) >= 8
    assert log.request_id.get() == accepted


def test_a_line_is_one_json_object(lines: Lines) -> None:
    lines.set_up()
    log.accept("order-17")
    logging.getLogger("some.library").warning("two\nlines %s", '"quoted"')
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("some.library").exception("failed")
    first, second = lines.all
    assert (first["level"], first["message"], first["request_id"]) == ("warning", 'two\nlines "quoted"', "order-17")
    assert first["time"].endswith("Z")
    assert "ValueError: broken" in second["exception"]


async def test_a_request_has_one_line_without_its_prompt(lines: Lines, vllm: VllmServer) -> None:
    lines.set_up()
    async with front_serving(config_of(vllm.url)) as gateway:
        prompt = {"model": "phi-2", "prompt": "my secret", "max_tokens": 3, "stream": False}
        answer = await gateway.complete(prompt, **{"X-Request-Id": "order-17"})
        made = await gateway.generate()
        await gateway.generate("none")
    first, second, third = lines.requests
    assert answer.headers["X-Request-Id"] == first["request_id"] == "order-17"
    assert made.headers["X-Request-Id"] == second["request_id"] != third["request_id"]
    assert {key: first[key] for key in ("protocol", "operation", "model", "status")} == {
        "protocol": "openai",
        "operation": "POST /v1/completions",
        "model": "phi-2",
        "status": 200,
    }
    assert (second["protocol"], second["model"], third["status"]) == ("http", "phi2", 404)
    assert "my secret" not in lines.stream.getvalue()


async def test_prompts_where_they_are_asked_for(lines: Lines, vllm: VllmServer) -> None:
    lines.set_up(prompts=True)
    async with front_serving(config_of(vllm.url)) as gateway:
        await gateway.complete({"model": "phi-2", "prompt": "my secret", "max_tokens": 3, "stream": False})
    assert lines.requests[0]["prompt"] == "my secret"


async def test_requests_that_are_not_logged(lines: Lines, vllm: VllmServer) -> None:
    lines.set_up(requests=False)
    async with front_serving(config_of(vllm.url)) as gateway:
        assert (await gateway.complete()).status == 200
    assert lines.requests == []


async def test_who_asked_is_named_by_the_name_of_the_key(lines: Lines, vllm: VllmServer) -> None:
    lines.set_up()
    async with front_serving(config_of(vllm.url), {"ada": "ada-secret-key-000"}) as gateway:
        await gateway.complete(Authorization="Bearer ada-secret-key-000")
    assert lines.requests[0]["key"] == "ada"
    assert "secret" not in lines.stream.getvalue()
