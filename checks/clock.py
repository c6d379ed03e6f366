#!/usr/bin/env python3
"""Does the host's clock agree with the controller's?

Settings: clock_controller_utc (ISO-8601, when the playbook began the check), clock_max_offset_s (default 60).
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

from shared.verdict import main

MAX_OFFSET_S = 60.0


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Compare two clocks; the time on the way counts into the offset, so the limit is wide."""
    limit = float(settings.get("clock_max_offset_s", MAX_OFFSET_S))
    controller = datetime.fromisoformat(settings["clock_controller_utc"].replace("Z", "+00:00"))
    offset = (datetime.now(UTC) - controller).total_seconds()
    wrong = abs(offset) > limit
    return {
        "verdict": "fail" if wrong else "pass",
        "expected": f"within {limit:g} s of the controller",
        "measured": f"{offset:+.1f} s",
        "advice": "set the clocks: timedatectl set-ntp true, on host and controller" if wrong else "",
    }


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
