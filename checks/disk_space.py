#!/usr/bin/env python3
"""Is there room for the image, the weights and the archive?

Settings: disk_space_needed {folder: bytes}; by default 20 GiB where Docker keeps images, and twice the model
repository plus the weights, plus 1 GiB, under /var/lib.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from shared.verdict import main

GIB = 1 << 30
IMAGE_BYTES = 20 * GIB


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Compare free bytes with the needed ones, folder by folder."""
    needed = settings.get("disk_space_needed") or _needed(settings)
    free = {folder: shutil.disk_usage(_existing(folder)).free for folder in needed}
    short = [folder for folder in needed if free[folder] < needed[folder]]
    first = short[0] if short else ""
    return {
        "verdict": "fail" if short else "pass",
        "expected": _text(needed),
        "measured": _text(free),
        "detail": f"too little room in {', '.join(short)}" if short else "",
        "advice": f"make room below {first}: df -h {first}; docker image prune" if short else "",
    }


def _needed(settings: dict[str, Any]) -> dict[str, int]:
    models = _size(settings["triton_model_repository"])
    weights = _size(settings["vllm_weights_source"]) if settings.get("vllm_weights_source") else 0
    return {"/var/lib/docker": IMAGE_BYTES, "/var/lib/migrate": 2 * models + weights + GIB}


def _size(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def _existing(folder: str) -> Path:
    return next(path for path in (Path(folder), *Path(folder).parents) if path.exists())


def _text(sizes: dict[str, int]) -> str:
    return ", ".join(f"{folder} {size / GIB:.1f} GiB" for folder, size in sizes.items())


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
