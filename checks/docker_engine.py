#!/usr/bin/env python3
"""Do Docker's engine and compose v2 answer, new enough? Settings: none."""

from __future__ import annotations

import re
import sys
from typing import Any

from shared.host import run
from shared.verdict import main

ENGINE, COMPOSE = (20, 10), (2, 0)


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Compare the versions of engine and compose with the oldest that can be used."""
    del settings
    rc, engine, error = run("docker", "version", "--format", "{{.Server.Version}}")
    compose = run("docker", "compose", "version", "--short")[1]
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


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
