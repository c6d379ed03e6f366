"""Triton's API as a server of our own answers it, well and badly."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any

import pytest

ANSWERS: dict[str, Any] = {
    "/v2/health/live": None,
    "/v2": {"name": "triton", "version": "2.51.0"},
    "/v2/repository/index": [
        {"name": "phi2", "version": "1", "state": "READY"},
        {"name": "a/b", "version": "1", "state": "READY"},
        {"name": "broken", "version": "1", "state": "UNAVAILABLE", "reason": "no"},
        {"name": "never loaded"},
    ],
    "/v2/models/phi2/config": {"name": "phi2", "max_batch_size": 0},
    "/v2/models/phi2": {"name": "phi2", "versions": ["1"]},
    "/v2/models/a%2Fb/config": {"name": "a/b"},
    "/v2/models/a%2Fb": {"name": "a/b"},
    "/v2/models/stats": {
        "model_stats": [
            {"name": "phi2", "version": "1", "last_inference": 5, "inference_count": 3},
            {"name": "phi2", "version": "2", "last_inference": 4, "inference_count": 2},
        ]
    },
    "/v2/systemsharedmemory/status": [{"name": "input", "key": "/input", "offset": 0, "byte_size": 64}],
    "/v2/cudasharedmemory/status": [],
}


@pytest.fixture(scope="module")
def module(utility: Callable[[str], ModuleType]) -> ModuleType:
    return utility("migrate_triton")


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def server(asked: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """A port and what it answers; bytes are sent as they are, a missing path is 404."""
    answers = dict(ANSWERS)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            found = answers.get(self.path, 404)
            body = found if isinstance(found, bytes) else b"" if found in (None, 404) else json.dumps(found).encode()
            self.send_response(404 if found == 404 else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield http.server_address[1], answers
        http.shutdown()


def read(module: ModuleType, port: int) -> dict[str, Any]:
    with module.connection(port) as ask:
        found: dict[str, Any] = module.triton(ask)
    return found


def test_everything_that_the_api_tells(
    module: ModuleType, server: tuple[int, dict[str, Any]], asked: list[str]
) -> None:
    found = read(module, server[0])
    assert (found["live"], found["version"]) == (True, "2.51.0")
    assert len(found["models"]) == 4
    assert found["configs"] == {"a/b": {"name": "a/b"}, "phi2": ANSWERS["/v2/models/phi2/config"]}
    assert found["metadata"]["phi2"]["versions"] == ["1"]
    assert found["statistics"] == {"phi2": {"inference_count": 5, "last_inference_ms": 5}}
    assert found["shared_memory"] == {"system": ["input"], "cuda": []}
    assert [line for line in asked if line.startswith("POST")] == ["POST /v2/repository/index"]


@pytest.mark.parametrize("answer", [b"{not json", b"[1, 2]", b'"text"', 404])
def test_an_answer_of_another_form_is_none(
    module: ModuleType, server: tuple[int, dict[str, Any]], answer: object
) -> None:
    port, answers = server
    answers.update({path: answer for path in ANSWERS if path != "/v2/health/live"})
    found = read(module, port)
    assert (found["live"], found["version"], found["models"], found["configs"]) == (True, None, [], {})
    assert (found["statistics"], found["shared_memory"]) == ({}, {"system": [], "cuda": []})


def test_too_long_an_answer_is_none(
    module: ModuleType, server: tuple[int, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER", 40)
    found = read(module, server[0])
    assert (found["version"], found["models"]) == ("2.51.0", [])


def test_models_are_bounded_and_the_rest_named(
    module: ModuleType, server: tuple[int, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_MODELS", 1)
    found = read(module, server[0])
    assert (list(found["configs"]), found["left_out"]) == (["a/b"], ["phi2"])


def test_what_the_api_tells_holds_no_secret(module: ModuleType, server: tuple[int, dict[str, Any]]) -> None:
    port, answers = server
    secret = {
        "parameters": {
            "hf_token": {"string_value": "hunter2"},
            "db": {"string_value": "postgres://u:hunter2@h/"},
            "model": {"string_value": "hf_hunter2hunter2hunter2"},
        }
    }
    answers["/v2/models/phi2/config"] = {"name": "phi2", **secret}
    answers["/v2/models/phi2"] = {"name": "phi2", **secret}
    index = [{"name": name, "version": "1", "state": "READY"} for name in ("phi2", "auth-token")]
    answers["/v2/repository/index"] = [*index, {"name": "bad", "reason": "--api-key hunter2 is wrong"}]
    answers["/v2/models/auth-token/config"] = {"name": "auth-token", "max_batch_size": 8}
    found = read(module, port)
    assert "hunter2" not in json.dumps(found)
    assert "postgres://u:keyed-hash:" in found["configs"]["phi2"]["parameters"]["db"]["string_value"]
    assert found["configs"]["auth-token"] == {"name": "auth-token", "max_batch_size": 8}
    assert read(module, port) == found


@pytest.mark.parametrize(
    "told",
    [
        5,
        "text",
        {"phi2": 1},
        [None, 5, "x", [], {"name": None, "inference_count": "many", "last_inference": []}],
        [{"name": "phi2", "inference_count": {"a": 1}, "last_inference": 1.5}],
    ],
)
def test_odd_statistics_are_none(module: ModuleType, server: tuple[int, dict[str, Any]], told: Any) -> None:
    port, answers = server
    answers["/v2/models/stats"] = {"model_stats": told}
    assert all(seen["inference_count"] == 0 for seen in read(module, port)["statistics"].values())
    answers["/v2/repository/index"] = 5
    assert read(module, port)["models"] == []


class Stalling(socketserver.StreamRequestHandler):
    """Answers what is quick, and drips every other answer byte by byte."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            while self.rfile.readline().strip():
                pass
            path = line.split()[1].decode()
            body = b"{}" if path in ("/v2/health/live", "/v2", "/v2/models/stats") else b"[]"
            if path == "/v2/repository/index":
                body = json.dumps([{"name": f"m{n}", "state": "READY"} for n in range(200)]).encode()
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
            if path.startswith("/v2/models/m"):
                self.drip(head % 1_000_000)
            self.wfile.write(head % len(body) + body)

    def drip(self, head: bytes) -> None:
        dripping = self.server.dripping  # type: ignore[attr-defined]
        if "head" not in dripping:
            self.wfile.write(head)
        while "stop" not in dripping:
            self.wfile.write(b"H" if "head" in dripping else b" ")
            self.wfile.flush()
            time.sleep(0.02)

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()


@pytest.mark.parametrize("where", ["body", "head"])
def test_one_deadline_covers_a_server_that_drips(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        dripping: set[str] = {where}

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    monkeypatch.setattr(module, "DEADLINE_S", 0.5)
    with Server(("127.0.0.1", 0), Stalling) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        reader = threading.Thread(target=lambda: found.update(read(module, http.server_address[1])), daemon=True)
        found: dict[str, Any] = {}
        reader.start()
        reader.join(20)
        http.dripping.add("stop")
        http.shutdown()
    assert not reader.is_alive()
    assert (found["live"], found["configs"], len(found["left_out"])) == (True, {}, 200)
    assert "0.5 s" in found["reason"]
    assert found["shared_memory"] == {"system": [], "cuda": []}


def test_a_silent_server_is_asked_once(module: ModuleType) -> None:
    asked = []

    def ask(method: str, path: str) -> tuple[int, Any]:
        asked.append(path)
        return 0, None

    found = module.triton(ask)
    assert (asked, found["live"], found["models"]) == (["/v2/health/live"], False, [])
