#!/usr/bin/env python3
"""Is Triton gone after `retire`, with nothing that would bring it back, and the archive still there?

Settings: triton_container, triton_compose_file, triton_compose_project, triton_compose_service, triton_http_port,
triton_model_repository, snapshot_dir.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CHECK = "triton_gone"

SNAPSHOT = "/var/lib/migrate/snapshot"
TIMEOUT_S = 20


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Look for the container, its compose entry, its port and its models."""
    left = leftovers(settings)
    archive = Path(settings.get("snapshot_dir", SNAPSHOT), "models.tar").is_file()
    return {
        "verdict": "fail" if left or not archive else "pass",
        "expected": "no container, no compose entry, no listener, no model files; the archive kept",
        "measured": "; ".join(left) or ("gone, archive kept" if archive else "gone, but the archive is missing"),
        "advice": f"look at {left[0]}, on the host" if left else "",
    }


def leftovers(settings: dict[str, Any]) -> list[str]:
    """What is still there, by name."""
    left = []
    if _run("docker", "container", "inspect", settings["triton_container"])[0] == 0:
        left.append(f"container {settings['triton_container']}")
    file, service = settings["triton_compose_file"], settings["triton_compose_service"]
    entry = rf"""^ +["']?{re.escape(service)}["']?:\s*(#.*)?$"""
    if Path(file).is_file() and re.search(entry, _services(Path(file).read_text()), flags=re.MULTILINE):
        left.append(f"entry {service} in {file}")
    with socket.socket() as probe:
        probe.settimeout(2)
        if probe.connect_ex(("127.0.0.1", int(settings["triton_http_port"]))) == 0:
            left.append(f"a listener on port {settings['triton_http_port']}")
    repository = Path(settings["triton_model_repository"])
    if any(repository.glob("*/config.pbtxt")):
        left.append(f"models below {repository}")
    return left


def _services(text: str) -> str:
    """The part of a compose file below `services:`."""
    found = re.search(r"^services:.*?(?=^[^\s#]|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return "" if found is None else "\n".join(line for line in found[0].splitlines() if _depth(line) <= 4)


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


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
