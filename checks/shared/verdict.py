"""How a check answers: with one verdict on stdout and an exit code."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Settings = dict[str, Any]


def main(check: Callable[[Settings], dict[str, Any]], argv: list[str]) -> int:
    """Print the verdict; `argv` is the check's file or name, and its settings as JSON.

    0 pass, 1 fail, 2 could not tell.
    """
    start, name = time.monotonic(), Path(argv[0]).stem
    try:
        found = check(json.loads(argv[1]))
    except Exception as error:
        advice = f"run checks/{name}.py by hand"
        found = {"verdict": "error", "measured": f"{type(error).__name__}: {error}", "advice": advice}
    told = {"check": name, "expected": "", "measured": "", "detail": "", "advice": "", "versions": {}} | found
    print(json.dumps(told | {"duration_s": round(time.monotonic() - start, 3)}))
    return {"pass": 0, "fail": 1}.get(found["verdict"], 2)


def judged(
    settings: Settings,
    read: Callable[[Settings], dict[str, Any]],
    judge: Callable[[dict[str, Any], Settings], dict[str, Any]],
) -> dict[str, Any]:
    """Read, or take what was read before (setting `raw`), and judge it; `show_raw` puts it into the answer."""
    raw = _given(settings) or read(settings)
    return judge(raw, settings) | ({"raw": raw} if settings.get("show_raw") else {})


def _given(settings: Settings) -> dict[str, Any]:
    """The setting `raw`: an object, or the file that holds it, alone or under the key `raw`."""
    given = settings.get("raw") or {}
    found: dict[str, Any] = json.loads(Path(given).read_text()) if isinstance(given, str) else given
    raw: dict[str, Any] = found.get("raw", found)
    return raw
