"""Triton's API as a server of our own answers it, well and badly; Docker's engine over a socket of our own."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
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


def test_a_silent_server_is_asked_once(module: ModuleType) -> None:
    asked = []

    def ask(method: str, path: str) -> tuple[int, Any]:
        asked.append(path)
        return 0, None

    found = module.triton(ask)
    assert (asked, found["live"], found["models"]) == (["/v2/health/live"], False, [])


@pytest.fixture
def engine(tmp_path: Path, utility: Callable[[str], ModuleType]) -> Iterator[Callable[[dict[str, Any]], Any]]:
    """A Docker engine that answers from a table: path without its query -> JSON."""
    table: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = table.get(self.path.partition("?")[0])
            body = json.dumps(found if found is not None else {"message": "No such thing"}).encode()
            self.send_response(200 if found is not None else 404)
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "socket"

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    containers = utility("migrate_containers")
    with Server(str(tmp_path / "docker.sock"), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def get(answers: dict[str, Any]) -> Any:
            table.update(answers)
            return containers.engine(tmp_path / "docker.sock")

        yield get
        server.shutdown()


def nothing(argv: list[str]) -> tuple[int, str, str]:
    return 127, "", f"{argv[0]}: not found"


def test_an_engine_with_nvidia(engine: Callable[[dict[str, Any]], Any], utility: Callable[[str], ModuleType]) -> None:
    found = utility("migrate_containers").docker(
        engine(
            {
                "/version": {"Version": "28.3.0"},
                "/info": {
                    "Runtimes": {"runc": {}, "nvidia": {}},
                    "DefaultRuntime": "nvidia",
                    "DiscoveredDevices": [
                        {"Source": "cdi", "ID": "nvidia.com/gpu=0"},
                        {"Source": "cdi", "ID": "nvidia.com/gpu=all"},
                    ],
                },
            }
        ),
        lambda argv: (0, "2.38.2\n", ""),
    )
    assert (found["version"], found["compose_version"], found["server_ok"]) == ("28.3.0", "2.38.2", True)
    assert (found["runtimes"], found["default_runtime"]) == (["nvidia", "runc"], "nvidia")
    assert found["cdi"] == ["nvidia.com/gpu=0", "nvidia.com/gpu=all"]


def test_an_older_engine_asks_nvidias_toolkit(
    engine: Callable[[dict[str, Any]], Any], utility: Callable[[str], ModuleType]
) -> None:
    listed = "INFO[0000] Found 1 CDI devices\nnvidia.com/gpu=0\n"
    found = utility("migrate_containers").docker(
        engine({"/version": {"Version": "26.1.5"}, "/info": {"Runtimes": {"runc": {}}}}),
        lambda argv: (0, listed, "") if argv[0] == "nvidia-ctk" else nothing(argv),
    )
    assert (found["cdi"], found["compose_version"]) == (["nvidia.com/gpu=0"], None)


def test_a_container_that_goes_meanwhile_is_left_out(
    engine: Callable[[dict[str, Any]], Any], utility: Callable[[str], ModuleType]
) -> None:
    get = engine({"/containers/json": [{"Id": "gone"}, {"Id": "here"}], "/containers/here/json": {"Id": "here"}})
    assert utility("migrate_containers").inspected(get) == [{"Id": "here"}]


def test_secrets_of_the_command_are_hashed(utility: Callable[[str], ModuleType]) -> None:
    plain = "--model-repository=/models"
    for word in ("--http-restricted-api=model-repository:admin=hunter2", "--Api-Key=hunter2", "--hf-token=hunter2"):
        shown = utility("migrate_containers")._without_secret(word, "machine")
        assert "hunter2" not in shown
        assert shown.startswith(word.partition("=")[0])
    assert utility("migrate_containers")._without_secret(plain, "machine") == plain
