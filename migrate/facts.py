"""Reads single values out of what `discover` found on a host, those that are computed from several facts too. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

FREE = "free"


def fact(facts: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key (`triton.container.image_id`), None where any part is missing.

    `ports.18000` is who listens there, `disks./var/lib` the free bytes below a folder, `gpus.GPU-…` those of a card.
    """
    if key in _COMPUTED:
        return _COMPUTED[key](facts)
    head, _, rest = key.partition(".")
    if head == "ports":
        return port_user(facts, int(rest))
    if head == "disks":
        return disk_free(facts, rest)
    if head == "gpus":
        return gpu_free(facts, rest)
    value: Any = facts
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def port_user(facts: Mapping[str, Any], port: int) -> str | None:
    """Who listens on a TCP port: the process's name, `free`, or None where the sockets could not be read."""
    listening = facts.get("listening")
    if listening is None:
        return None
    users = [str(entry.get("process") or "unknown process") for entry in listening if entry["port"] == port]
    return ", ".join(sorted(set(users))) or FREE


def disk_free(facts: Mapping[str, Any], folder: str) -> int | None:
    """Free bytes of the file system that holds a folder, by the nearest folder above it that was read."""
    disks = facts.get("disks") or {}
    above = [path for path in disks if folder == path or folder.startswith(path.rstrip("/") + "/")]
    return int(disks[max(above, key=len)]["free"]) if above else None


def gpu_free(facts: Mapping[str, Any], uuid: str) -> int | None:
    """Free bytes of one card, None where it is gone or nvidia-smi does not show them."""
    found = [gpu.get("memory_free") for gpu in facts.get("gpus") or [] if gpu.get("uuid") == uuid]
    return int(found[0]) if found and found[0] is not None else None


def digest(value: Any) -> str | None:
    """sha256 of a value's canonical JSON, None for an empty one."""
    if not value:
        return None
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _gpu_names(facts: Mapping[str, Any]) -> list[str]:
    return [str(gpu["name"]) for gpu in facts.get("gpus") or []]


_COMPUTED: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "nginx.digest": lambda facts: digest((facts.get("nginx") or {}).get("files")),
    "triton.configs.digest": lambda facts: digest((facts.get("triton") or {}).get("configs")),
    "gpus.names": _gpu_names,
}
