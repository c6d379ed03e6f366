"""Docker's engine as a server of our own answers it over a socket."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


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
