"""The headers of safetensors files: what is stored, without reading the weights.

Format: 8 bytes little-endian length, then that many bytes of JSON that name each tensor's dtype, shape and place
(https://github.com/huggingface/safetensors, README, "Format"; the reference reader takes at most 100 MB of header).
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrate.errors import Refused

_LARGEST_HEADER = 100_000_000
_ADVICE = "copy the weights again, and compare their checksums"
_FLOATING = {"F64", "F32", "F16", "BF16"}
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Headers:
    """What all files together hold: bytes of data, and numbers of elements by safetensors' dtype name."""

    files: int
    bytes: int
    parameters: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def elements(self) -> int:
        return sum(self.parameters.values())

    @property
    def packed(self) -> bool:
        """Whether integers or 8-bit floats hold weights, as in quantised checkpoints."""
        return sum(n for kind, n in self.parameters.items() if kind not in _FLOATING) > self.elements // 100


def from_facts(summary: Mapping[str, Any]) -> Headers | None:
    """The `weights.safetensors` part of a host's facts; None where the host could not read any."""
    if summary.get("error"):
        raise Refused(f"the weights cannot be read: {summary['error']}", advice=_ADVICE)
    if not summary.get("files"):
        return None
    return Headers(int(summary["files"]), int(summary["bytes"]), dict(summary.get("parameters") or {}))


def read(directory: Path) -> Headers | None:
    """The headers of every `*.safetensors` of a directory; None where there is none.

    Raises Refused for a file that is cut off or is no safetensors, and where the index names a file that is missing.
    """
    paths = sorted(path for path in directory.glob("*.safetensors") if not path.name.startswith("consolidated"))
    if not paths:
        return None
    named = _expect_all(directory, {path.name for path in paths})
    paths = [path for path in paths if not named or path.name in named]  # as vLLM does: strays are not loaded
    size = 0
    parameters: Counter[str] = Counter()
    shapes: dict[str, tuple[int, ...]] = {}
    for path in paths:
        for name, (kind, shape, length) in _tensors(path).items():
            size += length
            parameters[kind] += math.prod(shape)
            shapes[name] = shape
    return Headers(len(paths), size, dict(parameters), shapes)


def _expect_all(directory: Path, present: set[str]) -> set[str]:
    """The files that the index names, empty without one."""
    index = directory / _INDEX
    if not index.is_file():
        return set()
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Refused(f"{index} is no index of safetensors files", advice=_ADVICE) from error
    if missing := sorted(str(name) for name in named - present):
        raise Refused(f"{index} names {missing[0]}, which is not there ({len(missing)} missing)", advice=_ADVICE)
    return named


def _tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], int]]:
    if not path.is_file():
        raise Refused(f"{path} is no file", advice=_ADVICE)
    total = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(_LARGEST_HEADER, total - 8):
            raise Refused(f"{path}: the safetensors header is cut off ({total:,} bytes)", advice=_ADVICE)
        raw = file.read(length)
    try:
        header = json.loads(raw)
        tensors = {name: _tensor(entry) for name, entry in header.items() if name != "__metadata__"}
        end = max(
            (int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"), default=0
        )
    except (ValueError, KeyError, AttributeError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise Refused(f"{path}: the safetensors header cannot be read", advice=_ADVICE) from error
    if total < 8 + length + end:
        raise Refused(f"{path} has {total:,} bytes; its header promises {8 + length + end:,}", advice=_ADVICE)
    return tensors


def _tensor(entry: Mapping[str, Any]) -> tuple[str, tuple[int, ...], int]:
    begin, end = (int(place) for place in entry["data_offsets"])
    shape = tuple(int(size) for size in entry["shape"])
    if not 0 <= begin <= end or min(shape, default=0) < 0:
        raise ValueError("sizes")
    return str(entry["dtype"]), shape, end - begin
