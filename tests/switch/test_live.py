"""A real nginx on the loopback under keep-alive clients while flags come and go."""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from migrate.switch import render

from . import operator_side as operator

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
CLIENTS = 6
REQUESTS_A_STEP = 1500


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Backend(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    name = ""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = self.name.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def serve(name: str) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type(name, (Backend,), {"name": name}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that nginx's workers may enter; pytest closes its own to others whenever another session starts."""
    with tempfile.TemporaryDirectory(prefix="migrate-switch-") as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


@pytest.fixture
def switch(place: Path) -> Iterator[tuple[int, Path]]:
    triton, gateway = serve("triton"), serve("gateway")
    port = free_port()
    settings = operator.settings(
        triton_http_port=triton.server_port,
        gateway_port=gateway.server_port,
        switch_ports={80: port},
        switch_rehearsal_port=free_port(),
    )
    site = operator.TRITON_SITE.replace("8000", str(triton.server_port)).replace("listen [::]:80 default_server;", "")
    text = render(operator.files(site), main=operator.MAIN, settings=settings)
    text = text.replace("/run/migrate", str(place)).replace("/var/log/migrate", str(place))
    (place / "nginx.conf").write_text(text)
    process = subprocess.Popen(["nginx", "-c", str(place / "nginx.conf"), "-g", "daemon off;"])
    wait_for(port)
    yield port, place / "live"
    process.terminate()
    process.wait(timeout=10)
    for server in (triton, gateway):
        server.shutdown()
        server.server_close()


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"nothing listens on {port}")


class Load:
    """Keep-alive clients; every answer is counted by who gave it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.counts: dict[str, int] = {}
        self.failed: list[str] = []
        self.stop = threading.Event()
        self._guard = threading.Lock()
        self._threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def during(self, requests: int) -> dict[str, int]:
        """Counts of at least this many further requests."""
        with self._guard:
            self.counts = {}
        while sum(self.counts.values()) < requests and not self.failed:
            time.sleep(0.01)
        with self._guard:
            return dict(self.counts)

    def _client(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        while not self.stop.is_set():
            try:
                connection.request("POST", "/v2/models/phi2/generate", body=b'{"text_input":"a"}')
                answer = connection.getresponse()
                by = answer.read().decode() if answer.status == 200 else str(answer.status)
            except OSError as error:
                self.failed.append(repr(error))
                return
            with self._guard:
                self.counts[by] = self.counts.get(by, 0) + 1
        connection.close()


def test_steps_move_their_share_and_fail_nothing(switch: tuple[int, Path]) -> None:
    port, flags = switch
    with Load(port) as load:
        assert load.during(100).keys() == {"triton"}
        flags.mkdir()
        for percent in (5, 25, 50, 100):
            (flags / f"b{percent}").touch()
            load.during(CLIENTS)
            counts = load.during(REQUESTS_A_STEP)
            assert set(counts) <= {"triton", "gateway"}
            share = 100 * counts["gateway"] / sum(counts.values())
            assert abs(share - percent) <= 3.5 * (percent * (100 - percent) / REQUESTS_A_STEP) ** 0.5 + 1e-9
        flags.rename(flags.with_name("gone"))
        load.during(CLIENTS)
        assert load.during(200).keys() == {"triton"}
    assert load.failed == []


def test_many_switches_fail_nothing(switch: tuple[int, Path]) -> None:
    port, flags = switch
    flags.mkdir()
    everything = [flags / f"b{percent}" for percent in (5, 25, 50, 100)]
    with Load(port) as load:
        for _ in range(20):
            for flag in everything:
                flag.touch()
            # Each client may have one request on its way that was led before the flags were there.
            assert load.during(2 * CLIENTS).get("gateway", 0) > 0
            flags.rename(flags.with_name("gone"))
            flags.mkdir()
            for flag in flags.with_name("gone").iterdir():
                flag.unlink()
            flags.with_name("gone").rmdir()
    assert load.failed == []


def test_log_says_who_answered(switch: tuple[int, Path]) -> None:
    port, flags = switch
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for name, percent in (("a", 0), ("b", 100)):
        if percent:
            flags.mkdir()
            for bucket in (5, 25, 50, 100):
                (flags / f"b{bucket}").touch()
        headers = {"Referer": f"http://witness.invalid/{name}"}
        connection.request("POST", "/v2/models/phi2/generate", body=b"{}", headers=headers)
        connection.getresponse().read()
    connection.close()
    lines = (flags.parent / "switch.access.log").read_text().splitlines()
    assert [line.split('" ')[-1].split()[0] for line in lines] == ["triton", "gateway"]
