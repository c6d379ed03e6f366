#!/usr/bin/env python3
"""Is the host a system that this was made for? Settings: none."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

CHECK = "host_os"

WANTED = ("ubuntu", "24.04")


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Compare ID and VERSION_ID of os-release."""
    lines = Path(settings.get("os_release", "/etc/os-release")).read_text().splitlines()
    values = {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}
    found = (values.get("ID", ""), values.get("VERSION_ID", ""))
    return {
        "verdict": "pass" if found == WANTED else "fail",
        "expected": " ".join(WANTED),
        "measured": " ".join(found),
        "detail": values.get("LAB_NOTE", values.get("PRETTY_NAME", "")),
        "advice": "" if found == WANTED else "migrate a host with Ubuntu 24.04, or upgrade this one first",
    }


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
