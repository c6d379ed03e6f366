#!/usr/bin/env python3
"""Is Triton ready, and does it generate?

Settings: triton_http_port, triton_probe_model.
"""

from __future__ import annotations

import sys
from typing import Any

from shared.host import ask
from shared.verdict import main


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Ask for readiness and for one generated token."""
    port, model = settings["triton_http_port"], settings["triton_probe_model"]
    ready, why = ask(port, "/v2/health/ready")
    body = {"text_input": "def add(a, b):", "max_tokens": 1}
    status, answer = ask(port, f"/v2/models/{model}/generate", body) if ready == 200 else (0, why)
    good = status == 200 and "text_output" in answer
    return {
        "verdict": "pass" if good else "fail",
        "expected": f"ready on port {port}, and {model} generates",
        "measured": f"ready {ready}, generate {status}",
        "detail": "" if good else answer[:300],
        "advice": "" if good else "start Triton, or set triton_http_port and triton_probe_model; docker logs shows why",
    }


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
