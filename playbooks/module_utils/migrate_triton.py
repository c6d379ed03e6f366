"""Triton as its HTTP API describes it: repository index, models' config and metadata, statistics, shared memory.

Source: Triton's protocol documentation (the KServe v2 protocol and the extensions model_repository,
model_configuration, statistics, shared_memory). Every request is one that reads.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

MAX_MODELS = 200
MAX_ANSWER = 8 << 20
TIMEOUT_S = 5

Ask = Callable[[str, str], tuple[int, Any]]


def triton(ask: Ask) -> dict[str, Any]:
    """What the server says of itself; `configs` and `metadata` hold the models that are loaded, by name.

    A server that does not answer is asked once only.
    """
    live, _ = ask("GET", "/v2/health/live")
    told = _Told(ask if live else _silent)
    index = told.listing("POST", "/v2/repository/index")
    # A model that was never loaded has no state in the index.
    loaded = sorted({str(model["name"]) for model in index if model.get("state") == "READY" and model.get("name")})
    asked = loaded[:MAX_MODELS]
    return {
        "live": live == 200,
        "version": told.mapping("GET", "/v2").get("version"),
        "models": index,
        "configs": {name: told.mapping("GET", f"{_model(name)}/config") for name in asked},
        "metadata": {name: told.mapping("GET", _model(name)) for name in asked},
        "statistics": _statistics(told.mapping("GET", "/v2/models/stats")),
        "shared_memory": {kind: _regions(told, kind) for kind in ("system", "cuda")},
        "left_out": loaded[MAX_MODELS:],
    }


@contextmanager
def connection(port: int) -> Iterator[Ask]:
    """A function that asks the loopback address, over one connection while the server keeps it: (status, JSON).

    (0, None) when nobody answers; (status, None) for an answer that is no JSON, or too long.
    """
    to = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def ask(method: str, path: str) -> tuple[int, Any]:
        try:
            to.request(method, path)
            response = to.getresponse()
            body = response.read(MAX_ANSWER + 1)
            if len(body) > MAX_ANSWER:
                to.close()
                return response.status, None
        except (OSError, http.client.HTTPException):
            to.close()
            return 0, None
        try:
            return response.status, json.loads(body) if body else None
        except ValueError:
            return response.status, None

    try:
        yield ask
    finally:
        to.close()


class _Told:
    """Answers with status 200 and the wanted shape; empty for any other."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def mapping(self, method: str, path: str) -> dict[str, Any]:
        status, answer = self._ask(method, path)
        return answer if status == 200 and isinstance(answer, dict) else {}

    def listing(self, method: str, path: str) -> list[dict[str, Any]]:
        status, answer = self._ask(method, path)
        return [entry for entry in answer if isinstance(entry, dict)] if status == 200 and answer else []


def _silent(method: str, path: str) -> tuple[int, Any]:
    return 0, None


def _model(name: str) -> str:
    return f"/v2/models/{quote(name, safe='')}"


def _statistics(told: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Successful requests and the moment of the last (milliseconds since the epoch), over all versions of a model."""
    found: dict[str, dict[str, int]] = {}
    for entry in told.get("model_stats") or []:
        seen = found.setdefault(str(entry.get("name")), {"inference_count": 0, "last_inference_ms": 0})
        seen["inference_count"] += int(entry.get("inference_count") or 0)
        seen["last_inference_ms"] = max(seen["last_inference_ms"], int(entry.get("last_inference") or 0))
    return found


def _regions(told: _Told, kind: str) -> list[str]:
    regions = told.listing("GET", f"/v2/{kind}sharedmemory/status")
    return sorted(str(region["name"]) for region in regions if "name" in region)
