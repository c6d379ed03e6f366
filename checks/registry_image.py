#!/usr/bin/env python3
"""Does the registry hold the vLLM image under the digest of the plan, or, for strategy `source`, what it is built on?

Asked through the host's own engine, which knows its mirrors, proxies and certificates (Engine API,
DistributionInspect).
Settings: vllm_image_digest (name@sha256:…); image_strategy, image_base (name@sha256:…); docker_socket.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
from typing import Any
from urllib.parse import quote

from shared.verdict import main

TIMEOUT_S = 30
SOCKET = "/var/run/docker.sock"


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """An image that is on the host already needs no registry; a process needs no image."""
    if settings.get("vllm_runtime") == "process":
        return {"verdict": "pass", "expected": "no image", "measured": "vllm_runtime is process: vLLM is installed"}
    is_built = settings.get("image_strategy") == "source"
    setting = "image_base" if is_built else "vllm_image"
    reference = settings["image_base" if is_built else "vllm_image_digest"]
    path = settings.get("docker_socket", SOCKET)
    local, _ = _ask(path, f"/images/{quote(reference, safe='/:@')}/json")
    status, answer = (200, {}) if local == 200 else _ask(path, f"/distribution/{quote(reference, safe='/:@')}/json")
    found = (answer.get("Descriptor") or {}).get("digest", "")
    good = local == 200 or found == reference.partition("@")[2]
    return {
        "verdict": "pass" if good else "fail",
        "expected": reference,
        "measured": "on the host already" if local == 200 else found or f"no answer for it (status {status})",
        "detail": str(answer.get("message", "")),
        "advice": "" if good else f"docker pull {reference}, on the host; check {setting} in the inventory",
    }


def _ask(path: str, request: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(TIMEOUT_S)
    try:
        connection.sock.connect(path)
        connection.request("GET", request)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, ValueError) as error:
        return 0, {"message": f"the Docker engine at {path}: {error}"}
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
