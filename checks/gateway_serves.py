#!/usr/bin/env python3
"""Does the gateway answer Triton's requests, whole and streamed?

Settings: gateway_port, triton_probe_model, triton_models.
"""

from __future__ import annotations

import sys
from typing import Any

from shared.host import ask
from shared.verdict import main

TIMEOUT_S = 60


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """One `generate` and one `generate_stream` through the gateway; offline has none, and its port is free."""
    if settings.get("vllm_mode") == "offline":
        return _offline(settings["gateway_port"])
    port, model = settings["gateway_port"], settings["triton_probe_model"]
    body = {"text_input": "def add(a, b):", "max_tokens": 4}
    status, text = ask(port, f"/v2/models/{model}/generate", body, timeout_s=TIMEOUT_S)
    streaming, more = _streaming(settings, model)
    path = f"/v2/models/{streaming}/generate_stream"
    stream_status, stream = ask(port, path, body | more, timeout_s=TIMEOUT_S)
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
    status, _ = ask(port, "/v2/health/live", timeout_s=TIMEOUT_S)
    return {
        "verdict": "fail" if status else "pass",
        "expected": f"no gateway on port {port}, since vllm_mode is offline",
        "measured": f"status {status}" if status else "no answer",
        "advice": "stop an earlier deploy's gateway: migrate rollback --host HOST --to before-deploy" if status else "",
    }


def _streaming(settings: dict[str, Any], model: str) -> tuple[str, dict[str, Any]]:
    """A model with the vLLM backend's request shape, and how it is asked to stream; else the probe model, as it is."""
    models = settings.get("triton_models") or {}
    named = next((name for name, served in models.items() if served.get("style") == "vllm"), "")
    return (named, {"stream": True}) if named else (model, {})


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
