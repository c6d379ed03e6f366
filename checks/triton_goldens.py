#!/usr/bin/env python3
"""Does Triton give the recorded answers, byte for byte?

Settings: hostctl (default /usr/local/lib/migrate/hostctl).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

CHECK = "triton_goldens"

TIMEOUT_S = 300
HOSTCTL = "/usr/local/lib/migrate/hostctl"


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Let hostctl ask again and compare."""
    rc, out, error = _run(settings.get("hostctl", HOSTCTL), "goldens", "verify")
    told: dict[str, Any] = json.loads(out) if out.strip() else {"error": error.strip() or f"exit {rc}"}
    if "same" not in told:
        advice = str(told.get("advice") or "hostctl goldens verify, on the host")
        return {"verdict": "error", "expected": "a comparison", "measured": str(told.get("error")), "advice": advice}
    differing: list[dict[str, Any]] = told.get("different") or []
    names = [str(entry.get("name")) for entry in differing]
    first = differing[0] if differing else {}
    good = bool(told["same"]) and int(told["total"]) > 0
    return {
        "verdict": "pass" if good else "fail",
        "expected": f"{told['total']} recorded answers, byte for byte",
        "measured": f"{int(told['total']) - len(names)} the same"
        + (f"; different: {', '.join(names)}" if names else ""),
        "detail": "" if good else f"was {str(first.get('was'))[:120]!r}, is {str(first.get('is'))[:120]!r}",
        "advice": "" if good else "compare the model files with the snapshot: hostctl goldens verify, on the host",
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
