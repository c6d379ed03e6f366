"""Runs a program, and turns its failure into one sentence with the end of what it wrote."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from migrate.lab.errors import LabError

TAIL_LINES = 12


def run(argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"", what: str = "") -> bytes:
    """Run `argv` and return its stdout; raises LabError when it fails, is missing or takes longer than `timeout_s`."""
    name = what or argv[0]
    try:
        done = subprocess.run(list(argv), input=stdin, capture_output=True, timeout=timeout_s, check=False)  # noqa: S603
    except FileNotFoundError:
        raise LabError(f"{argv[0]} is not installed", advice=f"apt-get install the package of {argv[0]}") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"{name} took longer than {timeout_s:.0f} s") from None
    if done.returncode:
        raise LabError(f"{name} failed with {done.returncode}:\n{tail(done.stdout + done.stderr)}")
    return done.stdout


def tail(output: bytes) -> str:
    """The last lines of a program's output, as text."""
    return "\n".join(output.decode(errors="replace").splitlines()[-TAIL_LINES:])
