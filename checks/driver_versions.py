#!/usr/bin/env python3
"""Does the loaded driver agree with its library, and is it new enough?

Settings: driver_versions_min_major (default 580: what images with CUDA 13 need).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CHECK = "driver_versions"

TIMEOUT_S = 30
MIN_MAJOR = 580


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Compare the module's version with the library's (nvidia-smi fails where they differ)."""
    wanted = int(settings.get("driver_versions_min_major", MIN_MAJOR))
    expected = f"driver {wanted} or newer, module and library the same"
    module = Path(settings.get("nvidia_module_version", "/sys/module/nvidia/version"))
    if not module.is_file():
        advice = "install the driver, or set migrate_accept_inconclusive: {provision: REASON}"
        return {"verdict": "inconclusive", "expected": expected, "measured": "no driver is loaded", "advice": advice}
    loaded = module.read_text().strip()
    rc, out, error = _run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    library = out.split()[0] if rc == 0 and out.split() else ""
    good = library == loaded and int(loaded.partition(".")[0]) >= wanted
    return {
        "verdict": "pass" if good else "fail",
        "expected": expected,
        "measured": f"module {loaded}, library {library or 'does not answer'}",
        "detail": (error or out).strip() if rc != 0 else "",
        "advice": "" if good else "reboot where module and library differ; otherwise upgrade the driver",
        "versions": {"nvidia-driver": loaded},
    }


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
