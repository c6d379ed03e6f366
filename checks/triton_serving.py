#!/usr/bin/env python3
"""Is Triton ready, and does it generate?

Settings: triton_http_port, triton_probe_model.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from typing import Any

CHECK = "triton_serving"

TIMEOUT_S = 30


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Ask for readiness and for one generated token."""
    port, model = settings["triton_http_port"], settings["triton_probe_model"]
    ready, why = _ask(port, "/v2/health/ready")
    body = {"text_input": "def add(a, b):", "max_tokens": 1}
    status, answer = _ask(port, f"/v2/models/{model}/generate", body) if ready == 200 else (0, why)
    good = status == 200 and "text_output" in answer
    return {
        "verdict": "pass" if good else "fail",
        "expected": f"ready on port {port}, and {model} generates",
        "measured": f"ready {ready}, generate {status}",
        "detail": "" if good else answer[:300],
        "advice": "" if good else "start Triton, or set triton_http_port and triton_probe_model; docker logs shows why",
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
