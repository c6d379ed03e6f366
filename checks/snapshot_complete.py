#!/usr/bin/env python3
"""Can Triton be rebuilt from the snapshot: every file there and whole, the image kept?

Settings: snapshot_dir (default /var/lib/migrate/snapshot).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from shared.host import run, sha256
from shared.verdict import main

SNAPSHOT = "/var/lib/migrate/snapshot"
PARTS = ("container.json", "models.sha256", "models.tar", "packages.txt", "goldens.json")


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Compare every file with the index, and look for the image under the tag that keeps it."""
    root = Path(settings.get("snapshot_dir", SNAPSHOT))
    expected = "every part recorded and unchanged, readable by root alone, image kept"
    if not (root / "snapshot.json").is_file():
        advice = "take it: migrate apply"
        return {"verdict": "fail", "expected": expected, "measured": "no snapshot", "advice": advice}
    index = json.loads((root / "snapshot.json").read_text())
    wrong = wrong_files(root, index["files"])
    keep = index["triton"]["keep_tag"]
    rc, image, _ = run("docker", "image", "inspect", "--format", "{{.Id}}", keep)
    if rc != 0 or image.strip() != index["triton"]["image_id"]:
        wrong.append(f"the image is not kept as {keep}")
    return {
        "verdict": "fail" if wrong else "pass",
        "expected": expected,
        "measured": "; ".join(wrong[:5]) or f"{len(index['files'])} files, {keep}",
        "advice": "take it again while Triton serves: migrate apply" if wrong else "",
    }


def wrong_files(root: Path, files: dict[str, str]) -> list[str]:
    """What is missing, altered or readable by others."""
    wrong = [f"{name} is not recorded" for name in PARTS if name not in files]
    if not any(name.startswith("compose/") for name in files):
        wrong.append("the compose file is not recorded")
    for name, digest in files.items():
        path = root / name
        if not path.is_file() or sha256(path) != digest:
            wrong.append(f"{name} is missing or was altered")
        elif path.stat().st_mode & 0o077:
            wrong.append(f"{name} can be read by others")
    return wrong


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
