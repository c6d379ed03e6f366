"""A host in a temporary directory: hostctl as a real process, with MIGRATE_ROOT in front of every path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

FILES = Path(__file__).parents[2] / "playbooks" / "roles" / "hostctl" / "files"
HOSTCTL = FILES / "hostctl"
PROBE = {"path": "/v2/models/phi2/generate", "body": {"text_input": "def add(a, b):", "max_tokens": 1}}


class Machine:
    """`call` returns exit code and JSON object of one hostctl command."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "var/lib/migrate"
        self.log = root / "var/log/migrate/switch.access.log"
        self.bin = root / "bin"
        for directory in (self.state, self.log.parent, self.bin, root / "run/migrate", root / "etc/migrate"):
            directory.mkdir(parents=True)
        self.environment = os.environ | {"MIGRATE_ROOT": str(root), "PATH": f"{self.bin}:{os.environ['PATH']}"}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-IB", str(HOSTCTL), *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=self.environment)

    def call(self, *arguments: str, stdin: str = "") -> tuple[int, dict[str, Any]]:
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(stdin, timeout=120)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert out, err
        return process.returncode, json.loads(out)

    def ok(self, *arguments: str, stdin: str = "") -> dict[str, Any]:
        code, answer = self.call(*arguments, stdin=stdin)
        assert code == 0, answer
        return answer

    def token(self) -> str:
        """Take the lock; the fencing token."""
        return str(self.ok("lock", "acquire", "--owner", "t", "--reason", "r", "--lease-s", "60")["token"])

    def configure(self, triton: str, gateway: str, **more: Any) -> None:
        config = {
            "triton": {"url": triton, "container": "triton", "start": ["true"]},
            "gateway": {"url": gateway},
            "vllm": {"url": gateway, "model": "phi2"},
            "probe": PROBE,
            "switch": {
                "ports": {"80": 18080},
                "rehearsal_port": 18090,
                "unit": "migrate-switch",
                "access_log": "/var/log/migrate/switch.access.log",
                "operator_access_logs": ["/var/log/nginx/access.log"],
            },
            "soak": {
                "duration_s": 1,
                "min_requests": 5,
                "max_error_rate": 0.01,
                "max_p95_ratio": 3.0,
                "interval_s": 0.1,
            },
            "public": {"http_port": 80},
        }
        (self.state / "host.json").write_text(json.dumps(config | more))

    def fake(self, name: str, script: str = "exit 0") -> Path:
        """A command on the PATH that notes how it was called; for systemd, which no test may touch."""
        calls = self.root / f"{name}.calls"
        program = self.bin / name
        program.write_text(f'#!/bin/sh\necho "$*" >>{calls}\n{script}\n')
        program.chmod(0o755)
        return calls


class Backend(BaseHTTPRequestHandler):
    """Answers generations with its name; `status` and `delay_s` are changed by tests."""

    protocol_version = "HTTP/1.1"
    name = ""
    status = 200

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps({"text_output": self.name, "choices": [{"text": self.name}]}).encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


class Server:
    """One backend on the loopback, in a thread."""

    def __init__(self, name: str, port: int = 0, handler: type[Backend] = Backend) -> None:
        self.handler = type(name, (handler,), {"name": name})
        self._http = ThreadingHTTPServer(("127.0.0.1", port), self.handler)
        self._http.daemon_threads = True
        self.port = self._http.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
