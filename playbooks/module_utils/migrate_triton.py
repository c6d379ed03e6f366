"""Triton as its HTTP API describes it: repository index, models' config and metadata, statistics, shared memory.

Source: Triton's protocol documentation (the KServe v2 protocol and the extensions model_repository,
model_configuration, statistics, shared_memory). Every request is one that reads.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from ansible.module_utils.migrate_host import read_machine_id
from ansible.module_utils.migrate_texts import redacted

MAX_MODELS = 200
MAX_ANSWER = 8 << 20
TIMEOUT_S = 5.0
DEADLINE_S = 30.0

Ask = Callable[[str, str], tuple[int, Any]]


class OutOfTime(OSError):
    """The time for all questions together is over."""


def triton(ask: Ask) -> dict[str, Any]:
    """What the server says of itself, without secrets; `configs` and `metadata` hold the models that are loaded.

    A server that does not answer is asked once only. `left_out` are models that were not asked for.
    """
    told = _Told(ask)
    live = told.status("GET", "/v2/health/live")
    if not live:
        told.ask = _silent
    index = told.listing("POST", "/v2/repository/index")
    # A model that was never loaded has no state in the index.
    loaded = sorted({str(model["name"]) for model in index if model.get("state") == "READY" and model.get("name")})
    version = told.mapping("GET", "/v2").get("version")
    return {
        "live": live == 200,
        "version": version if isinstance(version, str) else None,
        "models": redacted(index, told.key),
        "statistics": _statistics(told.mapping("GET", "/v2/models/stats")),
        "shared_memory": {kind: _regions(told, kind) for kind in ("system", "cuda")},
        **_models(told, loaded),
        "reason": told.reason,
    }


def _models(told: _Told, loaded: list[str]) -> dict[str, Any]:
    configs, metadata = {}, {}
    for name in loaded[:MAX_MODELS]:
        config, described = told.mapping("GET", f"{_model(name)}/config"), told.mapping("GET", _model(name))
        if told.reason:
            break
        configs[name], metadata[name] = redacted(config, told.key), redacted(described, told.key)
    return {"configs": configs, "metadata": metadata, "left_out": [name for name in loaded if name not in configs]}


@contextmanager
def connection(port: int, seconds: float | None = None) -> Iterator[Ask]:
    """A function that asks the loopback address, over one connection while the server keeps it: (status, JSON).

    (0, None) when nobody answers; (status, None) for an answer that is no JSON, or too long. Raises OutOfTime once
    `seconds` (DEADLINE_S) are over for all questions together, in the midst of an answer too.
    """
    end = time.monotonic() + (DEADLINE_S if seconds is None else seconds)
    to = _Connection(port, end)

    def ask(method: str, path: str) -> tuple[int, Any]:
        _left(end)
        try:
            to.request(method, path)
            response = to.getresponse()
            body = response.read(MAX_ANSWER + 1)
            if len(body) > MAX_ANSWER:
                to.close()
                return response.status, None
        except (OSError, http.client.HTTPException):
            to.close()
            _left(end)
            return 0, None
        try:
            return response.status, json.loads(body) if body else None
        except (ValueError, RecursionError):
            return response.status, None

    try:
        yield ask
    finally:
        to.close()


class _Socket(socket.socket):
    """Every read ends with the time that is left, however little each one brings."""

    end: float

    def recv_into(self, *args: Any, **options: Any) -> int:
        self.settimeout(min(TIMEOUT_S, _left(self.end)))
        return super().recv_into(*args, **options)


class _Connection(http.client.HTTPConnection):
    def __init__(self, port: int, end: float) -> None:
        super().__init__("127.0.0.1", port)
        self._end = end

    def connect(self) -> None:
        opened = _Socket(socket.AF_INET)
        opened.end = self._end
        opened.settimeout(min(TIMEOUT_S, _left(self._end)))
        self.sock = opened
        opened.connect((self.host, self.port))


def _left(end: float) -> float:
    """Seconds until `end`. Raises OutOfTime when none is left."""
    left = end - time.monotonic()
    if left <= 0:
        raise OutOfTime("the time is over")
    return left


class _Told:
    """Answers with status 200 and the wanted shape; empty for any other, and once the time is over: `reason`."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.reason: str | None = None
        self.key = read_machine_id()

    def status(self, method: str, path: str) -> int:
        return self._answer(method, path)[0]

    def mapping(self, method: str, path: str) -> dict[str, Any]:
        status, answer = self._answer(method, path)
        return answer if status == 200 and isinstance(answer, dict) else {}

    def listing(self, method: str, path: str) -> list[dict[str, Any]]:
        status, answer = self._answer(method, path)
        entries = answer if status == 200 and isinstance(answer, list) else []
        return [entry for entry in entries if isinstance(entry, dict)]

    def _answer(self, method: str, path: str) -> tuple[int, Any]:
        if self.reason:
            return 0, None
        try:
            return self.ask(method, path)
        except OutOfTime:
            self.reason = (
                f"Triton did not answer everything within {DEADLINE_S:g} s; {path} and what follows is left out"
            )
            return 0, None


def _silent(method: str, path: str) -> tuple[int, Any]:
    return 0, None


def _model(name: str) -> str:
    return f"/v2/models/{quote(name, safe='')}"


def _statistics(told: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Successful requests and the moment of the last (milliseconds since the epoch), over all versions of a model."""
    found: dict[str, dict[str, int]] = {}
    entries = told.get("model_stats")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            seen = found.setdefault(str(entry.get("name")), {"inference_count": 0, "last_inference_ms": 0})
            seen["inference_count"] += _count(entry.get("inference_count"))
            seen["last_inference_ms"] = max(seen["last_inference_ms"], _count(entry.get("last_inference")))
    return found


def _count(value: Any) -> int:
    """A number, which JSON of protobuf writes as a text where it has 64 bits; 0 for anything else."""
    return (
        int(value) if isinstance(value, int) or (isinstance(value, str) and value.isascii() and value.isdigit()) else 0
    )


def _regions(told: _Told, kind: str) -> list[str]:
    regions = told.listing("GET", f"/v2/{kind}sharedmemory/status")
    return sorted(str(region["name"]) for region in regions if "name" in region)
