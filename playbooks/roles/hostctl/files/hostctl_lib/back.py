"""Runs the host's way back, /var/lib/migrate/back, reads what it did before, and says whether it would work now."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from .errors import NotProven
from .system import Paths, run


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


def readiness(paths: Paths) -> str:
    """Why the way back would not work now; empty where nothing is known against it."""
    script = paths.state / "back"
    if not script.exists():
        return f"{script} is not there"
    last = [record for record in history(paths) if record.get("scope") == "live"][-1:]
    if last and not last[0].get("ok"):
        return f"its last run failed: {last[0].get('error') or 'no reason given'}"
    return _snapshot_gap(paths)


def _snapshot_gap(paths: Paths) -> str:
    """What the snapshot has lost since it was taken: its files, or the image that it kept."""
    snapshot = paths.state / "snapshot"
    try:
        index = json.loads((snapshot / "snapshot.json").read_text())
    except FileNotFoundError:
        return ""
    except ValueError:
        return f"{snapshot}/snapshot.json is damaged"
    lost = [name for name in index["files"] if not (snapshot / name).exists()]
    if lost:
        return f"the snapshot has lost {lost[0]}"
    tag = index["triton"]["keep_tag"]
    kept = run(["docker", "image", "inspect", "--format", "{{.Id}}", tag], check=False)
    return "" if kept.strip() else f"Triton's kept image {tag} is gone"
