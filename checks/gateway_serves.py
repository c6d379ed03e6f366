#!/usr/bin/env python3
"""Does the gateway answer Triton's requests, whole and streamed?

Settings: gateway_port, triton_probe_model, triton_models.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from typing import Any

CHECK = "gateway_serves"

TIMEOUT_S = 60


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """One `generate` and one `generate_stream` through the gateway; offline has none, and its port is free."""
    if settings.get("vllm_mode") == "offline":
        return _offline(settings["gateway_port"])
    port, model = settings["gateway_port"], settings["triton_probe_model"]
    body = {"text_input": "def add(a, b):", "max_tokens": 4}
    status, text = _ask(port, f"/v2/models/{model}/generate", body)
    streaming = _streaming(settings, model)
    stream_status, stream = _ask(port, f"/v2/models/{streaming}/generate_stream", {**body, "stream": True})
    events = [line for line in stream.splitlines() if line.startswith("data:")]
    good = status == 200 and "text_output" in text and stream_status == 200 and events and "error" not in events[-1]
    return {
        "verdict": "pass" if good else "fail",
        "expected": f"{model} generates and {streaming} streams on port {port}",
        "measured": f"generate {status}, generate_stream {stream_status} with {len(events)} events",
        "detail": "" if good else (text if status != 200 else stream)[:300],
        "advice": "" if good else f"{settings.get('gateway_logs', 'docker logs vllm-gateway-1')}, on the host",
    }


def _offline(port: int) -> dict[str, Any]:
    status, _ = _ask(port, "/v2/health/live")
    return {
        "verdict": "fail" if status else "pass",
        "expected": f"no gateway on port {port}, since vllm_mode is offline",
        "measured": f"status {status}" if status else "no answer",
        "advice": "stop an earlier deploy's gateway: migrate rollback --host HOST --to before-deploy" if status else "",
    }


def _streaming(settings: dict[str, Any], model: str) -> str:
    """A model with the vLLM backend's request shape streams; without one, the probe model is asked."""
    models = settings.get("triton_models") or {}
    return next((name for name, served in models.items() if served.get("style") == "vllm"), model)


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
