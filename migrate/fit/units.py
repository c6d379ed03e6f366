"""Bytes as people write them: `32GiB`, `24 GB`, `24564MiB`, plain bytes."""

from __future__ import annotations

import re

from migrate.errors import UsageError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_UNITS = {"": 1, "b": 1, "kib": KIB, "mib": MIB, "gib": GIB, "tib": 1 << 40}
_UNITS |= {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_PATTERN = re.compile(r"^\s*([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([a-zA-Z]*)\s*$")
_SMALLEST, _LARGEST = GIB, 1 << 44


def parse_memory(text: str) -> int:
    """Bytes of a GPU's memory. Raises UsageError for what is no size, and below 1 GiB or above 16 TiB."""
    match = _PATTERN.match(text)
    factor = _UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise UsageError(f"{text!r} is no amount of memory", advice="write it as 32GiB, 24564MiB or 80GB")
    value = int(float(match[1]) * factor)
    if not _SMALLEST <= value <= _LARGEST:
        raise UsageError(f"{text!r} is no amount of a GPU's memory", advice="--vram takes 1GiB to 16TiB, such as 32GiB")
    return value


def gib(value: float) -> str:
    """`14.19 GiB`."""
    return f"{value / GIB:,.2f} GiB"
