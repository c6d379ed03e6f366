#!/usr/bin/env python3
"""Are the weights that vLLM will load exactly those that were staged?

Settings: vllm_weights_path (the manifest lies beside it as <path>.sha256).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from shared.host import sha256
from shared.verdict import main


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Hash every file again and compare it with the manifest of the source."""
    root = Path(settings["vllm_weights_path"])
    listed = root.with_name(f"{root.name}.sha256")
    lines = listed.read_text().splitlines() if listed.is_file() else []
    wanted = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    wrong = sorted(name for name, digest in wanted.items() if not _same(root / name, digest))
    extra = sorted(name for name in _names(root) if name not in wanted)
    good = bool(wanted) and not wrong and not extra
    measured = f"{len(wanted) - len(wrong)} of {len(wanted)} files as in the manifest"
    return {
        "verdict": "pass" if good else "fail",
        "expected": f"every file below {root} as in {listed.name}",
        "measured": measured + (f"; wrong: {', '.join(wrong[:5])}" if wrong else ""),
        "detail": f"not in the manifest: {', '.join(extra[:5])}" if extra else "",
        "advice": "" if good else f"rm -r {root}; then stage again: migrate continue",
    }


def _names(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]


def _same(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
