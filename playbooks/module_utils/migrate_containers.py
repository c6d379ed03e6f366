"""Docker as its engine describes it over its socket: versions, runtimes, CDI devices, containers, compose projects.

Source: Docker Engine API, `/version`, `/info`, `/containers/json`, `/containers/ID/json`, `/distribution/NAME/json`.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from ansible.module_utils.migrate_host import Run, env_hashes, read_machine_id, spec_digest

Engine = Callable[[str], tuple[int, Any]]

MAX_CONTAINERS = 300
MAX_ANSWER = 32 << 20
TIMEOUT_S = 30
_PROJECT = "com.docker.compose."
_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)


class _Socket(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


def engine(path: Path) -> Engine:
    """A function that GETs a path of the engine behind a socket: (status, JSON); (0, reason) where nobody answers."""

    def get(wanted: str) -> tuple[int, Any]:
        return exchange(_Socket(path), "GET", wanted)

    return get


def exchange(connection: http.client.HTTPConnection, method: str, path: str) -> tuple[int, Any]:
    """Status and parsed JSON of one request; (0, reason) where nobody answers, or what is no JSON or too long."""
    try:
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read(MAX_ANSWER + 1)
        if len(body) > MAX_ANSWER:
            return 0, f"the answer to {path} is longer than {MAX_ANSWER} bytes"
        return response.status, json.loads(body) if body else None
    except OSError as error:
        return 0, error.strerror or str(error)
    except (http.client.HTTPException, ValueError) as error:
        return 0, f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def docker(get: Engine, run: Run) -> dict[str, Any]:
    """The engine and compose v2, None where absent; `cdi` lists the GPUs that containers can ask for by name."""
    status, version = get("/version")
    _, told = get("/info") if status == 200 else (0, {})
    info = told if isinstance(told, dict) else {}
    rc, compose, _ = run(["docker", "compose", "version", "--short"])
    return {
        "version": version.get("Version") if status == 200 else None,
        "compose_version": compose.strip() if rc == 0 else None,
        "server_ok": status == 200,
        "reason": None if status == 200 else f"the Docker engine does not answer: {_message(version)}",
        "runtimes": sorted(info.get("Runtimes") or {}),
        "default_runtime": info.get("DefaultRuntime"),
        "cdi": _cdi(info, run) if status == 200 else [],
    }


def podman(run: Run) -> dict[str, Any]:
    """Podman's version, None with a reason where it is absent."""
    rc, out, err = run(["podman", "--version"])
    version = re.search(r"\d+\.\d+(\.\d+)?", out) if rc == 0 else None
    return {"version": version[0] if version else None, "reason": None if version else (err or out).strip()[:200]}


def _cdi(info: dict[str, Any], run: Run) -> list[str]:
    """Devices that a new engine has discovered; of an older one, what NVIDIA's toolkit lists."""
    if info.get("DiscoveredDevices"):
        return sorted(str(device["ID"]) for device in info["DiscoveredDevices"] if device.get("Source") == "cdi")
    rc, out, _ = run(["nvidia-ctk", "cdi", "list"])
    return sorted(line.strip() for line in out.splitlines() if "=" in line and "/" in line) if rc == 0 else []


def inspected(get: Engine) -> list[dict[str, Any]]:
    """`docker container inspect` of every container, the newest 300 at most; none where the engine is silent."""
    status, listing = get(f"/containers/json?all=1&limit={MAX_CONTAINERS}")
    found = (get(f"/containers/{entry['Id']}/json") for entry in (listing if status == 200 else []))
    # Between the two questions a container can go.
    return [answer for status, answer in found if status == 200]


def containers(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a plan wants to know of every container."""
    return [
        {
            "name": name_of(c),
            "id": c["Id"],
            "image": c["Config"]["Image"],
            "image_id": c["Image"],
            "state": c["State"]["Status"],
            "restart_policy": c["HostConfig"]["RestartPolicy"]["Name"],
            "ports": c["HostConfig"].get("PortBindings") or {},
            "networks": sorted((c.get("NetworkSettings") or {}).get("Networks") or {}),
            "compose_project": labels(c).get(f"{_PROJECT}project"),
            "compose_service": labels(c).get(f"{_PROJECT}service"),
        }
        for c in found
    ]


def compose_projects(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compose projects that have a container, with the files that they were started from."""
    files: dict[str, set[str]] = {}
    for c in found:
        if name := labels(c).get(f"{_PROJECT}project"):
            listed = labels(c).get(f"{_PROJECT}project.config_files") or ""
            files.setdefault(name, set()).update(part for part in listed.split(",") if part)
    return [{"name": name, "files": sorted(files[name])} for name in sorted(files)]


def serving(found: dict[str, Any], get: Engine) -> dict[str, Any]:
    """Triton's container as the plan reads it; values of its environment are keyed hashes, its command is in `spec`."""
    config, key = found["Config"], read_machine_id()
    status, image = get(f"/images/{quote(found['Image'])}/json")
    sized = get(f"/containers/{found['Id']}/json?{urlencode({'size': 'true'})}")[1]
    return {
        "name": name_of(found),
        "id": found["Id"],
        "image": config["Image"],
        "image_id": found["Image"],
        "repo_digests": (image.get("RepoDigests") or []) if status == 200 else [],
        "state": found["State"]["Status"],
        "started_at": found["State"]["StartedAt"],
        "restart_policy": found["HostConfig"]["RestartPolicy"]["Name"],
        "mounts": found.get("Mounts") or [],
        "ports": found["HostConfig"].get("PortBindings") or {},
        "env_hashes": env_hashes(config.get("Env") or [], key),
        "spec": spec_digest(found, key),
        "compose": {
            "project": labels(found).get(f"{_PROJECT}project"),
            "service": labels(found).get(f"{_PROJECT}service"),
            "file": labels(found).get(f"{_PROJECT}project.config_files"),
        },
        "writable_layer_bytes": sized.get("SizeRw") if isinstance(sized, dict) else None,
    }


def image_in_registry(reference: str, get: Engine) -> dict[str, Any]:
    """The manifest digest that a pull would get now, asked through the host's own engine.

    The engine knows its mirrors, proxies, certificates and insecure registries (Engine API, DistributionInspect).
    """
    status, answer = get(f"/distribution/{quote(reference, safe='/:@')}/json")
    digest = answer["Descriptor"]["digest"] if status == 200 else None
    silent = "the Docker engine does not answer"
    reason = None if digest else f"{silent}: {_message(answer)}" if status == 0 else _message(answer)
    return {"reference": reference, "digest": digest, "error": reason, "platforms": _platforms(answer)}


def _platforms(answer: Any) -> list[str]:
    """`linux/amd64` for each platform of an image, without attestations, whose platform is unknown/unknown."""
    listed = (answer.get("Platforms") if isinstance(answer, dict) else None) or []
    named = {f"{one.get('os')}/{one.get('architecture')}" for one in listed}
    return sorted(one for one in named if one.startswith("linux/"))


def container_of(found: Iterable[dict[str, Any]], proc: Path) -> Callable[[int], str | None]:
    """A function from a process id to the name of its container, by the control group of the process."""
    names = {c["Id"]: name_of(c) for c in found}

    def name(pid: int) -> str | None:
        ids = _ID.findall(cgroup(pid, proc))
        return next((names[one] for one in ids if one in names), None)

    return name


def cgroup(pid: int, proc: Path) -> str:
    """/proc/PID/cgroup, empty for a process that is gone."""
    try:
        return (proc / str(pid) / "cgroup").read_text(errors="replace")
    except OSError:
        return ""


def labels(found: dict[str, Any]) -> dict[str, str]:
    """The labels of an inspected container."""
    return (found.get("Config") or {}).get("Labels") or {}


def name_of(found: dict[str, Any]) -> str:
    """The name of an inspected container, without Docker's slash."""
    return str(found["Name"]).lstrip("/")


def _message(answer: Any) -> str:
    return str(answer.get("message") if isinstance(answer, dict) else answer or "no answer")
