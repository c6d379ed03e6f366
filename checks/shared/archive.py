"""The checks as one file that Python runs, `python3 checks.pyz NAME SETTINGS`: for a host, and for an image."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path


def archived(checks: Path) -> bytes:
    """The folder of the checks as a zip application, the same bytes for the same files; or what is one already."""
    if checks.is_file():
        return checks.read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as into:
        for path in sorted(checks.rglob("*.py")):
            entry = zipfile.ZipInfo(path.relative_to(checks).as_posix())
            into.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return packed.getvalue()
