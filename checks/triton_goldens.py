#!/usr/bin/env python3
"""Does Triton give the recorded answers, byte for byte?

Settings: hostctl (default /usr/local/lib/migrate/hostctl).
"""

from __future__ import annotations

import json
import sys
from typing import Any

from shared.host import run
from shared.verdict import main

TIMEOUT_S = 300
HOSTCTL = "/usr/local/lib/migrate/hostctl"


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Let hostctl ask again and compare."""
    rc, out, error = run(settings.get("hostctl", HOSTCTL), "goldens", "verify", timeout_s=TIMEOUT_S)
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


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
