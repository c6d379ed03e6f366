#!/usr/bin/env python3
"""Do Docker's engine and compose v2 answer, new enough? Settings: none."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import Any

CHECK = "docker_engine"

TIMEOUT_S = 20
ENGINE, COMPOSE = (20, 10), (2, 0)


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Compare the versions of engine and compose with the oldest that can be used."""
    del settings
    rc, engine, error = _run("docker", "version", "--format", "{{.Server.Version}}")
    compose = _run("docker", "compose", "version", "--short")[1]
    good = rc == 0 and version(engine) >= ENGINE and version(compose) >= COMPOSE
    return {
        "verdict": "pass" if good else "fail",
        "expected": "engine 20.10 or newer, compose 2 or newer",
        "measured": f"engine {engine.strip() or 'absent'}, compose {compose.strip() or 'absent'}",
        "detail": error.strip(),
        "advice": "" if good else "install Docker with compose v2 (docs.docker.com/engine/install/ubuntu)",
        "versions": {"docker": engine.strip(), "compose": compose.strip()},
    }


def version(text: str) -> tuple[int, ...]:
    """Major and minor number; (0,) for a text without any."""
    numbers = re.findall(r"\d+", text)[:2]
    return tuple(int(number) for number in numbers) or (0,)


def _run(*argv: str) -> tuple[int, str, str]:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S)
    except FileNotFoundError:
        return 127, "", f"{argv[0]} is not installed"
    return done.returncode, done.stdout, done.stderr


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
