#!/usr/bin/env python3
"""Do clients get a generation on the public port?

Settings: port_serves_port (default: the lowest of switch_ports), triton_probe_model.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from typing import Any

CHECK = "port_serves"

TIMEOUT_S = 30


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """One generation through the port that clients use."""
    port = int(settings.get("port_serves_port") or min(int(port) for port in settings["switch_ports"]))
    model = settings["triton_probe_model"]
    body = {"text_input": "def add(a, b):", "max_tokens": 1}
    status, answer = _ask(port, f"/v2/models/{model}/generate", body)
    good = status == 200 and "text_output" in answer
    return {
        "verdict": "pass" if good else "fail",
        "expected": f"{model} generates on port {port}",
        "measured": f"status {status}",
        "detail": "" if good else answer[:300],
        "advice": "" if good else "/var/lib/migrate/back, on the host; then migrate status",
    }


def _ask(port: int, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
    """Status and text of a GET, or of a POST where there is a body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        method = "GET" if body is None else "POST"
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except OSError as error:
        return 0, f"port {port}: {error.strerror or error}"
    finally:
        connection.close()


def main(argv: list[str]) -> int:
    """Print the verdict; 0 pass, 1 fail, 2 could not tell."""
    start = time.monotonic()
    try:
        found = check(json.loads(argv[1]))
    except Exception as error:
        found = {"verdict": "error", "measured": f"{type(error).__name__}: {error}", "advice": f"run {argv[0]} by hand"}
    told = {"check": CHECK, "expected": "", "measured": "", "detail": "", "advice": "", "versions": {}} | found
    print(json.dumps(told | {"duration_s": round(time.monotonic() - start, 3)}))
    return {"pass": 0, "fail": 1}.get(found["verdict"], 2)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
