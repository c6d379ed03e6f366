"""Runs in a network namespace of its own (test_redirect.py starts it): the redirect under clients that stay connected.

Prints one JSON object of what was seen.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.host.machine import Machine

ADDRESSES = {"ipv4": "127.0.0.1", "ipv6": "::1", "own": "10.9.9.9"}


class Both(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True


class Named(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.name)))
        self.end_headers()
        self.wfile.write(self.name.encode())

    def log_message(self, *_: object) -> None:
        pass


def serve(name: str, port: int) -> None:
    server = Both(("::", port), type(name, (Named,), {"name": name}))
    threading.Thread(target=server.serve_forever, daemon=True).start()


def ask(connection: http.client.HTTPConnection) -> str:
    connection.request("GET", "/")
    return connection.getresponse().read().decode()


def fresh() -> dict[str, str]:
    """Who answers new connections, for each address."""
    answers = {}
    for name, address in ADDRESSES.items():
        connection = http.client.HTTPConnection(address, 80, timeout=5)
        answers[name] = ask(connection)
        connection.close()
    return answers


class Client(threading.Thread):
    """Asks without a pause on one connection and notes every answer."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection(address, 80, timeout=5)
        self.connection.connect()
        self.answers: dict[str, int] = {}
        self.failed = ""
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.is_set():
            try:
                by = ask(self.connection)
            except (OSError, http.client.HTTPException) as error:
                self.failed = repr(error)
                return
            self.answers[by] = self.answers.get(by, 0) + 1
        self.connection.close()


def finish(clients: list[Client]) -> dict[str, object]:
    for client in clients:
        client.done.set()
        client.join()
    total: dict[str, int] = {}
    for client in clients:
        for by, count in client.answers.items():
            total[by] = total.get(by, 0) + count
    return {"failed": [c.failed for c in clients if c.failed], "by": sorted(total), "enough": sum(total.values()) > 200}


def main() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "address", "add", "10.9.9.9/32", "dev", "lo"], check=True)
    serve("old", 80)
    serve("switch", 18080)
    machine = Machine(Path(sys.argv[1]))
    machine.configure("http://t", "http://g")
    token = machine.token()
    silent = http.client.HTTPConnection("127.0.0.1", 80, timeout=5)
    ask(silent)
    clients = [Client(address) for address in list(ADDRESSES.values()) * 4]
    for client in clients:
        client.start()
    time.sleep(0.2)
    seen: dict[str, object] = {"before": fresh()}
    seen["on"] = machine.ok("switch", "redirect", "on", "--token", token)
    seen["redirected"] = fresh()
    seen["silent"] = ask(silent)
    time.sleep(0.3)
    seen["stayed"] = finish(clients)
    silent.close()
    clients = [Client(address) for address in list(ADDRESSES.values()) * 4]
    for client in clients:
        client.start()
    seen["again"] = machine.ok("switch", "redirect", "on", "--token", token)["redirect"]
    time.sleep(0.3)
    seen["off"] = machine.ok("switch", "redirect", "off", "--token", token)
    seen["after"] = fresh()
    time.sleep(0.3)
    seen["ended"] = finish(clients)
    time.sleep(0.5)
    seen["last"] = machine.ok("switch", "redirect", "off", "--token", token)
    listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
    seen["tables"] = listed.stdout.strip()
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main()
