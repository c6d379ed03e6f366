#!/usr/bin/env python3
"""Is the host a system that this was made for? Settings: none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from shared.verdict import main

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


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
