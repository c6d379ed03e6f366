#!/usr/bin/env python3
"""Is Triton gone after `retire`, with nothing that would bring it back, and the archive still there?

Settings: triton_container, triton_compose_file, triton_compose_project, triton_compose_service, triton_http_port,
triton_model_repository, snapshot_dir.
"""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path
from typing import Any

from shared.host import run
from shared.verdict import main

SNAPSHOT = "/var/lib/migrate/snapshot"


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
    if run("docker", "container", "inspect", settings["triton_container"])[0] == 0:
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


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
