#!/usr/bin/env python3
"""Does vLLM serve the model that was planned, with the planned length, and generate?

Settings: vllm_port, vllm_served_model_name, vllm_args (max-model-len, where set).
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from typing import Any

CHECK = "vllm_serves"

TIMEOUT_S = 60


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """/health alone does not prove a generation: ask for the models and for a few tokens."""
    port, name = settings["vllm_port"], settings["vllm_served_model_name"]
    length = (settings.get("vllm_args") or {}).get("max-model-len")
    status, text = _ask(port, "/v1/models")
    served = {model["id"]: model.get("max_model_len") for model in json.loads(text)["data"]} if status == 200 else {}
    generated, answer = _generates(port, name) if name in served else (False, text)
    good = generated and (length is None or served[name] == int(length))
    return {
        "verdict": "pass" if good else "fail",
        "expected": f"{name} with max_model_len {length or 'of the model'} on port {port}, generating",
        "measured": f"models {served}, {'generates' if generated else 'does not generate'}",
        "detail": "" if good else answer[:300],
        "advice": "" if good else "docker compose --project-name vllm logs vllm, on the host",
    }


def _generates(port: int, name: str) -> tuple[bool, str]:
    """Greedy and sampled: a sampled request can end an engine that answers greedy ones."""
    answer = ""
    for temperature in (0, 1):
        body = {"model": name, "prompt": "def add(a, b):", "max_tokens": 4, "temperature": temperature}
        status, answer = _ask(port, "/v1/completions", body)
        if status != 200 or json.loads(answer)["usage"]["completion_tokens"] < 1:
            return False, f"temperature {temperature}: {answer}"
    return True, answer


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
