"""A host in small: programs that print captured output, and servers that answer on the loopback address."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

CHECKS = Path(__file__).parents[2] / "checks"
NAMES = sorted(path.stem for path in CHECKS.glob("[!_]*.py"))
Answers = Mapping[str, tuple[int, str]]


@dataclass
class SmallHost:
    """Where a check runs: `bin` is all of its PATH, `folder` is for files."""

    folder: Path
    servers: list[socketserver.BaseServer] = field(default_factory=list)

    def command(self, name: str, output: str = "", *, rc: int = 0, error: str = "", when: str = "") -> None:
        """Install a program that prints `output` where its arguments contain `when`; later calls go first."""
        path = self.folder / "bin" / name
        older = path.read_text().removeprefix("#!/bin/sh\n") if path.exists() else ""
        folder = self.folder / "outputs"
        folder.mkdir(exist_ok=True)
        number = len(list(folder.iterdir()))
        (folder / f"{number}").write_text(output)
        say = f"/bin/cat {folder}/{number}; echo '{error}' >&2; exit {rc}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\ncase "$*" in *"{when}"*) {say};; esac\n{older}')
        path.chmod(0o755)

    def serve(self, answers: Answers) -> int:
        """Answer these paths on a free port."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(answers))
        self._start(server)
        return server.server_address[1]

    def serve_socket(self, answers: Answers) -> str:
        """Answer these paths on a unix socket."""
        path = str(self.folder / "socket")
        self._start(socketserver.ThreadingUnixStreamServer(path, _handler(answers)))
        return path

    def check(self, name: str, **settings: Any) -> tuple[int, dict[str, Any]]:
        """Run a check by hand: exit code and verdict."""
        return self.run([str(CHECKS / f"{name}.py")], settings)

    def run(self, program: list[str], settings: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Run a program of Python as a check: exit code and verdict."""
        (self.folder / "bin").mkdir(exist_ok=True)
        argv = [sys.executable, *program, json.dumps(settings)]
        environment = {"PATH": str(self.folder / "bin"), "LANG": os.environ.get("LANG", "C.UTF-8")}
        done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=60)
        assert done.stderr == ""
        return done.returncode, json.loads(done.stdout)

    def _start(self, server: socketserver.BaseServer) -> None:
        self.servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


def _handler(answers: Answers) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, text = answers.get(self.path, (404, "{}"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SmallHost]:
    small = SmallHost(tmp_path)
    yield small
    for server in small.servers:
        server.shutdown()
        server.server_close()
