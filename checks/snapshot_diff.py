#!/usr/bin/env python3
"""Is the Triton stack on the host the one that the snapshot recorded? Names every difference.

Settings: snapshot_dir (default /var/lib/migrate/snapshot).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import sys
from pathlib import Path
from typing import Any

from shared.host import run, sha256
from shared.verdict import main

SNAPSHOT = "/var/lib/migrate/snapshot"
BYTECODE = "__pycache__"
OF_ONE_RUN = ("Hostname", "AttachStdin", "AttachStdout", "AttachStderr", "ContainerIDFile", "ConsoleSize", "Links")
LABELS_OF_ONE_RUN = ("com.docker.compose.replace", "com.docker.compose.version")


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Compare image, container specification, compose file, model repository and nginx files."""
    root = Path(settings.get("snapshot_dir", SNAPSHOT))
    triton = json.loads((root / "snapshot.json").read_text())["triton"]
    differing = container(root, triton) + files(root, triton)
    first = differing[0] if differing else ""
    return {
        "verdict": "fail" if differing else "pass",
        "expected": "no difference between the snapshot and the host",
        "measured": f"{len(differing)} differences: {'; '.join(differing[:20])}" if differing else "no difference",
        "advice": f"compare with the copy below {root}: {first}" if differing else "",
    }


def container(root: Path, triton: dict[str, Any]) -> list[str]:
    """Parts of the container's specification that differ."""
    rc, out, _ = run("docker", "container", "inspect", triton["container"])
    if rc != 0:
        return [f"container {triton['container']} is missing"]
    was, now = json.loads((root / "container.json").read_text()), spec(json.loads(out)[0], _machine_id())
    return [f"container {path}" for path in _paths(was, now)]


def spec(inspected: dict[str, Any], machine_id: str) -> dict[str, Any]:
    """The same parts that the snapshot keeps; values of the environment as keyed hashes."""
    config = {k: v for k, v in (inspected.get("Config") or {}).items() if k not in OF_ONE_RUN}
    labels = (config.get("Labels") or {}).items()
    config["Labels"] = {k: v for k, v in labels if k not in LABELS_OF_ONE_RUN}
    pairs = (entry.partition("=") for entry in config.get("Env") or [])
    key = machine_id.encode()
    config["Env"] = {name: hmac.new(key, value.encode(), hashlib.sha256).hexdigest() for name, _, value in pairs}
    mounts = [_named(mount) for mount in inspected.get("Mounts") or []]
    return {
        "Name": inspected.get("Name"),
        "Image": inspected.get("Image"),
        "Config": config,
        "HostConfig": {k: v for k, v in (inspected.get("HostConfig") or {}).items() if k not in OF_ONE_RUN},
        "Mounts": sorted(mounts, key=lambda mount: str(mount.get("Destination"))),
        "Networks": sorted((inspected.get("NetworkSettings") or {}).get("Networks") or {}),
    }


def _named(mount: dict[str, Any]) -> dict[str, Any]:
    """A mount without the random name of an anonymous volume."""
    anonymous = re.fullmatch(r"[0-9a-f]{64}", str(mount.get("Name")))
    return {key: value for key, value in mount.items() if not (anonymous and key in ("Name", "Source"))}


def files(root: Path, triton: dict[str, Any]) -> list[str]:
    """Files that were added, changed or removed: compose, nginx, models."""
    pairs = [(copy, Path("/", copy.relative_to(root / "nginx"))) for copy in _below(root / "nginx")]
    compose = Path(triton["compose_file"])
    pairs += [(copy, compose.with_name(copy.name)) for copy in _below(root / "compose")]
    differing = [str(path) for copy, path in pairs if not path.is_file() or sha256(path) != sha256(copy)]
    repository = Path(triton["model_repository"])
    lines = (line.split("  ", 1) for line in (root / "models.sha256").read_text().splitlines())
    was = {name: digest for digest, name in lines}
    now = {path.relative_to(repository).as_posix(): sha256(path) for path in _below(repository)}
    changed = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
    return differing + [str(repository / name) for name in changed]


def _below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and BYTECODE not in path.parts)


def _paths(was: Any, now: Any, at: str = "") -> list[str]:
    """Dotted paths at which two JSON values differ.

    Null and empty are one: Docker writes the one when it makes a container, the other when it starts it again.
    """
    if isinstance(was, dict) and isinstance(now, dict):
        keys = sorted(was.keys() | now.keys())
        return [path for key in keys for path in _paths(was.get(key), now.get(key), f"{at}.{key}".lstrip("."))]
    return [] if (was or None) == (now or None) else [at]


def _machine_id() -> str:
    path = Path("/etc/machine-id")
    return path.read_text().strip() if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
