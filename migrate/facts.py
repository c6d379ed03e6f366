"""Reads single values out of what `discover` found on a host, those that are computed from several facts too. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

FREE = "free"
# Packages whose version is the driver's: of NVIDIA's own repository, and of Ubuntu's.
_DRIVER_PACKAGES = ("nvidia-open", "nvidia-headless", "libnvidia-compute")


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


def driver_to_be(facts: Mapping[str, Any]) -> str | None:
    """The driver that vLLM meets: the one that `provision` brings, else the one that is there; None without one."""
    changes = (facts.get("provision") or {}).get("changes") or []
    packages = [one for change in changes if change["role"] == "gpu_driver" for one in change["packages"]]
    brought = [one["after"] for one in packages if one["after"] and one["name"].startswith(_DRIVER_PACKAGES)]
    return str(brought[0]).partition("-")[0] if brought else (facts.get("driver") or {}).get("version")


def digest(value: Any) -> str | None:
    """sha256 of a value's canonical JSON, None for an empty one."""
    if not value:
        return None
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _gpu_names(facts: Mapping[str, Any]) -> list[str]:
    return [str(gpu["name"]) for gpu in facts.get("gpus") or []]


def _provision_changes(facts: Mapping[str, Any]) -> list[str] | None:
    """What `provision` would change, a line each; None where it manages nothing."""
    if "provision" not in facts:
        return None
    return [line for change in facts["provision"]["changes"] for line in _lines(change)]


def _lines(change: Mapping[str, Any]) -> list[str]:
    packages = [
        f"{one['name']} {one['before'] or 'absent'} → {one['after'] or 'removed'}" for one in change["packages"]
    ]
    return packages or [f"{change['role']}: {change['task']}"]


_COMPUTED: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "nginx.digest": lambda facts: digest((facts.get("nginx") or {}).get("files")),
    "triton.configs.digest": lambda facts: digest((facts.get("triton") or {}).get("configs")),
    "gpus.names": _gpu_names,
    "provision.changes": _provision_changes,
}
