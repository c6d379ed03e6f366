"""What several modules read from a host: command output, file manifests, and a container's specification."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

Run = Callable[[list[str]], tuple[int, str, str]]

MACHINE_ID = "/etc/machine-id"
BYTECODE = "__pycache__"
# What a start or a place in the network changes; the rest of `docker inspect` is what was asked for.
_OF_ONE_RUN = ("Hostname", "AttachStdin", "AttachStdout", "AttachStderr", "ContainerIDFile", "ConsoleSize", "Links")
_LABELS_OF_ONE_RUN = ("com.docker.compose.replace", "com.docker.compose.version")
# Lists in which the order counts; Docker gives others, such as mounts, in another order each time.
_ORDERED = ("Cmd", "Entrypoint", "Test", "Shell", "OnBuild", "Dns", "DnsOptions", "DnsSearch", "ExtraHosts")


def runner(module: Any) -> Run:
    """Run commands through an AnsibleModule; a missing program is rc 127 instead of a failed task."""

    def run(argv: list[str]) -> tuple[int, str, str]:
        try:
            rc, out, err = module.run_command(argv, handle_exceptions=False)
        except OSError as error:
            return 127, "", f"{argv[0]}: {error.strerror}"
        return rc, out, err

    return run


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return sha256_of_stream(file)


def sha256_of_stream(stream: IO[bytes]) -> str:
    """sha256 of what is left in a stream, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    for block in iter(lambda: stream.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()


def manifest(root: Path) -> dict[str, str]:
    """Every regular file below `root` (links followed to files): relative path -> sha256, sorted by path.

    Python's bytecode caches are left out: whatever runs there writes them again.
    """
    found = {}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != BYTECODE]
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                found[path.relative_to(root).as_posix()] = sha256_of(path)
    return dict(sorted(found.items()))


def manifest_text(files: dict[str, str]) -> str:
    """The manifest in the form of `sha256sum`, sorted by path; its own sha256 is the digest of the tree."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))


def parse_manifest(text: str) -> dict[str, str]:
    """The reverse of `manifest_text`."""
    pairs = (line.split("  ", 1) for line in text.splitlines())
    return {name: digest for digest, name in pairs}


def tree_digest(files: dict[str, str]) -> str:
    """sha256 over the manifest's text."""
    return hashlib.sha256(manifest_text(files).encode()).hexdigest()


def env_hashes(environment: list[str], machine_id: str) -> dict[str, str]:
    """Values of `NAME=value` pairs as HMAC-SHA256, keyed by the machine-id, which never leaves the host."""
    pairs = (entry.partition("=") for entry in environment)
    key = machine_id.encode()
    return {name: hmac.new(key, value.encode(), hashlib.sha256).hexdigest() for name, _, value in pairs}


def read_machine_id() -> str:
    """The host's machine-id, or an empty text where it has none."""
    path = Path(MACHINE_ID)
    return path.read_text().strip() if path.is_file() else ""


def container_spec(inspected: dict[str, Any], machine_id: str) -> dict[str, Any]:
    """The part of `docker inspect` that stays the same over a restart or a rebuild from the same compose text.

    Values of the environment are keyed hashes.
    """
    config = {k: v for k, v in (inspected.get("Config") or {}).items() if k not in _OF_ONE_RUN}
    labels = (config.get("Labels") or {}).items()
    config["Labels"] = {k: v for k, v in labels if k not in _LABELS_OF_ONE_RUN}
    config["Env"] = env_hashes(config.get("Env") or [], machine_id)
    host_config = {k: v for k, v in (inspected.get("HostConfig") or {}).items() if k not in _OF_ONE_RUN}
    mounts = [_named(mount) for mount in inspected.get("Mounts") or []]
    return {
        "Name": inspected.get("Name"),
        "Image": inspected.get("Image"),
        "Config": config,
        "HostConfig": host_config,
        "Mounts": sorted(mounts, key=lambda mount: str(mount.get("Destination"))),
        "Networks": sorted((inspected.get("NetworkSettings") or {}).get("Networks") or {}),
    }


def spec_digest(inspected: dict[str, Any], machine_id: str) -> str:
    """HMAC-SHA256 of `container_spec`, whatever order Docker lists its parts in, keyed by the machine-id.

    The command is in it as it is, and may hold a password that could be guessed from a plain hash.
    """
    text = _canonical(_sorted(container_spec(inspected, machine_id)))
    return hmac.new(machine_id.encode(), text.encode(), hashlib.sha256).hexdigest()


def _sorted(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _sorted(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        parts = [_sorted(inner) for inner in value]
        return parts if name in _ORDERED else sorted(parts, key=_canonical)
    return value


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _named(mount: dict[str, Any]) -> dict[str, Any]:
    """A mount without the random name of an anonymous volume."""
    anonymous = re.fullmatch(r"[0-9a-f]{64}", str(mount.get("Name")))
    return {key: value for key, value in mount.items() if not (anonymous and key in ("Name", "Source"))}


def inspect(run: Run, kind: str, name: str) -> dict[str, Any] | None:
    """`docker container|image inspect`, or None where Docker or the object is absent."""
    rc, out, _ = run(["docker", kind, "inspect", name])
    return json.loads(out)[0] if rc == 0 else None


def write_private(path: Path, text: str | bytes) -> bool:
    """Replace a file (mode 0600) in one rename; False when it held this text already."""
    content = text.encode() if isinstance(text, str) else text
    if path.is_file() and path.read_bytes() == content:
        return False
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return True
