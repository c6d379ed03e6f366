#!/usr/bin/env python3
"""Do clients get a generation on the public port?

Settings: port_serves_port (default: the lowest of switch_ports), triton_probe_model.
"""

from __future__ import annotations

import sys
from typing import Any

from shared.host import ask
from shared.verdict import main


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """One generation through the port that clients use."""
    port = int(settings.get("port_serves_port") or min(int(port) for port in settings["switch_ports"]))
    model = settings["triton_probe_model"]
    body = {"text_input": "def add(a, b):", "max_tokens": 1}
    status, answer = ask(port, f"/v2/models/{model}/generate", body)
    good = status == 200 and "text_output" in answer
    return {
        "verdict": "pass" if good else "fail",
        "expected": f"{model} generates on port {port}",
        "measured": f"status {status}",
        "detail": "" if good else answer[:300],
        "advice": "" if good else "/var/lib/migrate/back, on the host; then migrate status",
    }


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
