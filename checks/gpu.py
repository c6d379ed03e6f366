#!/usr/bin/env python3
"""Is there a GPU with enough memory?

Settings: gpu_min_memory_mib (default 24,000: cards sold as 24 GB report a little less than 24,576 MiB).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

CHECK = "gpu"

TIMEOUT_S = 30
MIN_MEMORY_MIB = 24_000


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Ask nvidia-smi; without a GPU nothing about it can be told."""
    wanted = int(settings.get("gpu_min_memory_mib", MIN_MEMORY_MIB))
    rc, out, error = _run("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
    expected = f"a GPU with at least {wanted} MiB"
    if rc != 0 or not out.strip():
        reason = (error or out).strip() or "nvidia-smi lists none"
        advice = "install the driver, or set migrate_accept_inconclusive: {provision: REASON}"
        return {
            "verdict": "inconclusive",
            "expected": expected,
            "measured": "no GPU",
            "detail": reason,
            "advice": advice,
        }
    cards = [[field.strip() for field in line.split(",")] for line in out.strip().splitlines()]
    good = max(int(card[1]) for card in cards) >= wanted
    return {
        "verdict": "pass" if good else "fail",
        "expected": expected,
        "measured": "; ".join(f"{name} {memory} MiB" for name, memory, _ in cards),
        "advice": "" if good else "migrate a host with a larger GPU",
        "versions": {"nvidia-driver": cards[0][2]},
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
