"""Finds the playbooks, checks, lab and inventories: beside the package in a clone, inside it in a wheel."""

from __future__ import annotations

import hashlib
import runpy
import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def root() -> Path:
    """The directory that holds `playbooks`, `checks`, `lab`, `inventory` and `ansible.cfg`."""
    inside = _PACKAGE / "_bundled"
    return inside if inside.is_dir() else _PACKAGE.parent


def package() -> Path:
    """The directory of the `migrate` package itself, of which the gateway's image takes its parts."""
    return _PACKAGE


def checks() -> bytes:
    """The checks as one file that Python runs on a host, packed by their own code."""
    folder = root() / "checks"
    packed: bytes = runpy.run_path(str(folder / "shared" / "archive.py"))["archived"](folder)
    return packed


def tool(name: str) -> str:
    """The path of a command that was installed beside the running Python, so that no PATH decides."""
    return str(Path(sys.executable).parent / name)


def tree_digest(*names: str) -> str:
    """sha256 over the paths and contents below the named directories of `root()`, or of the package."""
    digest = hashlib.sha256()
    for base in (root() / name if (root() / name).exists() else _PACKAGE / name for name in names):
        for file in sorted(p for p in base.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
            digest.update(str(file.relative_to(base)).encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
