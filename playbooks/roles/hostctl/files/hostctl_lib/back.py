"""Runs the host's way back, /var/lib/migrate/back, and reads what it did before."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from .errors import NotProven
from .system import Paths


def run_back(paths: Paths, *, reason: str, scope: str = "live", timeout_s: float = 600) -> dict[str, Any]:
    """Take traffic back to Triton. Raises NotProven with the script's own answer where it could not."""
    script = paths.state / "back"
    command = ["sh", str(script), "--scope", scope, "--reason", reason]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)  # noqa: S603
        answer = dict(json.loads(done.stdout.strip().splitlines()[-1]))
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        raise NotProven(f"{script} gave no answer: {error}", f"run it by hand: sudo {script}") from error
    if done.returncode != 0:
        advice = "look at the container's log, mend it, and run back again: " + str(script)
        raise NotProven(str(answer.get("error") or f"exit {done.returncode}"), advice, back=answer)
    return answer


def history(paths: Paths) -> list[dict[str, Any]]:
    """Every run of `back` that is on record, oldest first; a torn line is left out."""
    try:
        lines = (paths.state / "back.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    records = []
    for line in lines:
        try:
            records.append(dict(json.loads(line)))
        except ValueError:
            continue
    return records
