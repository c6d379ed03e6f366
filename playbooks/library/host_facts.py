#!/usr/bin/python
"""Reads everything that a plan needs to know about a host, and changes nothing."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.migrate_host import (
    Run,
    env_hashes,
    inspect,
    manifest,
    read_machine_id,
    runner,
    tree_digest,
)

DOCUMENTATION = r"""
module: host_facts
short_description: Reads the Triton stack, nginx, Docker and the hardware of a host
description:
  - Read-only, in check mode too. A part that the host lacks is null or false with the reason beside it.
options:
  triton_container: {type: str, required: true, description: Name of the container that serves Triton.}
  triton_http_port: {type: int, required: true, description: Triton's HTTP port on the host.}
  triton_model_repository: {type: path, required: true, description: Model repository on the host.}
  nginx_service: {type: str, required: true, description: Unit of the operator's nginx.}
  nginx_config_file: {type: path, required: true, description: Its main configuration file.}
  vllm_image: {type: str, required: true, description: Reference of the vLLM image.}
  vllm_weights_source: {type: path, required: true, description: Folder of the model's weights on the host.}
author: [migrate]
"""
EXAMPLES = r"""
- name: Read the host
  host_facts:
    triton_container: triton-triton-1
    triton_http_port: 8000
    triton_model_repository: /srv/triton/models
    nginx_service: nginx
    nginx_config_file: /etc/nginx/nginx.conf
    vllm_image: docker.io/vllm/vllm-openai:v0.31.0
    vllm_weights_source: /srv/triton/models/phi2/1/weights
"""
RETURN = r"""
host_facts: {type: dict, returned: always, description: The facts.}
"""

DOCKER_SOCKET = "/var/run/docker.sock"
HOSTCTL = "/usr/local/lib/migrate/hostctl"
HTTP_TIMEOUT_S = 5
_GPU_FIELDS = ("index", "name", "memory.total", "memory.free", "driver_version", "compute_cap")


def read_host(params: dict[str, Any], run: Run) -> dict[str, Any]:
    """All facts of the host as one JSON object; sizes are bytes."""
    return {
        "os": operating_system(Path("/etc/os-release")),
        "kernel": os.uname().release,
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "disks": disks(["/", "/var/lib", "/var/lib/docker"]),
        "clock_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "gpus": gpus(run),
        "docker": docker(run),
        "triton": triton(params, run),
        "model_repository": tree(params["triton_model_repository"]),
        "nginx": nginx(params["nginx_service"], params["nginx_config_file"], run),
        "listening": listening(run(["ss", "-Hltnp"])[1]),
        "vllm_image": image_in_registry(params["vllm_image"]),
        "weights": tree(params["vllm_weights_source"]),
        "hostctl": hostctl(run),
    }


def operating_system(path: Path) -> dict[str, Any]:
    """Identity from os-release; `lab_note` is set where a lab says that it only presents itself as this system."""
    pairs = (line.partition("=") for line in path.read_text().splitlines() if "=" in line)
    values = {key: value.strip('"') for key, _, value in pairs}
    names = {"id": "ID", "version_id": "VERSION_ID", "pretty_name": "PRETTY_NAME", "lab_note": "LAB_NOTE"}
    return {ours: values.get(theirs) for ours, theirs in names.items()}


def disks(paths: list[str]) -> dict[str, dict[str, int]]:
    """Size and free space of the file systems under the paths that exist."""
    used = {path: shutil.disk_usage(path) for path in paths if os.path.isdir(path)}
    return {path: {"total": usage.total, "free": usage.free} for path, usage in used.items()}


def gpus(run: Run) -> list[dict[str, str]]:
    """One entry for each GPU that nvidia-smi lists (memory in MiB); empty without a driver."""
    rc, out, _ = run(["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader,nounits"])
    rows = (re.split(r",\s*", line.strip()) for line in out.splitlines()) if rc == 0 else ()
    return [dict(zip(_GPU_FIELDS, row, strict=True)) for row in rows]


def docker(run: Run) -> dict[str, Any]:
    """Versions of the engine and of compose v2, None where absent."""
    rc, out, err = run(["docker", "version", "--format", "{{.Server.Version}}"])
    compose_rc, compose, _ = run(["docker", "compose", "version", "--short"])
    return {
        "version": out.strip() if rc == 0 else None,
        "compose_version": compose.strip() if compose_rc == 0 else None,
        "server_ok": rc == 0,
        "reason": None if rc == 0 else err.strip(),
    }


def triton(params: dict[str, Any], run: Run) -> dict[str, Any]:
    """The container and what its HTTP port says about the server and its models."""
    port = params["triton_http_port"]
    live, _ = ask(port, "GET", "/v2/health/live")
    _, metadata = ask(port, "GET", "/v2")
    _, index = ask(port, "POST", "/v2/repository/index")
    found = inspect(run, "container", params["triton_container"])
    return {
        "container": container(found, run) if found else None,
        "reason": None if found else f"no container is named {params['triton_container']}",
        "live": live == 200,
        "version": metadata.get("version") if isinstance(metadata, dict) else None,
        "models": index if isinstance(index, list) else [],
    }


def container(found: dict[str, Any], run: Run) -> dict[str, Any]:
    """The container as the plan reads it; values of its environment are keyed hashes."""
    config, labels = found["Config"], found["Config"].get("Labels") or {}
    image = inspect(run, "image", found["Image"]) or {}
    sized = run(["docker", "container", "inspect", "--size", "--format", "{{.SizeRw}}", found["Id"]])[1].strip()
    project = "com.docker.compose."
    return {
        "name": found["Name"].lstrip("/"),
        "id": found["Id"],
        "image": config["Image"],
        "image_id": found["Image"],
        "repo_digests": image.get("RepoDigests") or [],
        "state": found["State"]["Status"],
        "started_at": found["State"]["StartedAt"],
        "restart_policy": found["HostConfig"]["RestartPolicy"]["Name"],
        "mounts": found.get("Mounts") or [],
        "ports": found["HostConfig"].get("PortBindings") or {},
        "env_hashes": env_hashes(config.get("Env") or [], read_machine_id()),
        "command": config.get("Cmd") or [],
        "compose": {
            "project": labels.get(f"{project}project"),
            "service": labels.get(f"{project}service"),
            "file": labels.get(f"{project}project.config_files"),
        },
        "writable_layer_bytes": int(sized) if sized.isdigit() else None,
    }


def ask(port: int, method: str, path: str) -> tuple[int, Any]:
    """Status and parsed JSON of a request to the loopback address; (0, None) when nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HTTP_TIMEOUT_S)
    return _exchange(connection, method, path)


def _exchange(connection: http.client.HTTPConnection, method: str, path: str) -> tuple[int, Any]:
    try:
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
        return response.status, json.loads(body) if body else None
    except (OSError, http.client.HTTPException, ValueError):
        return 0, None
    finally:
        connection.close()


def tree(root: str) -> dict[str, Any]:
    """Number, size and digest of the files below a folder."""
    if not os.path.isdir(root):
        return {"path": root, "exists": False, "files": 0, "bytes": 0, "digest": None}
    files = manifest(Path(root))
    size = sum(Path(root, name).stat().st_size for name in files)
    return {"path": root, "exists": True, "files": len(files), "bytes": size, "digest": tree_digest(files)}


def nginx(service: str, main: str, run: Run) -> dict[str, Any]:
    """Version and every file of the running configuration, as `nginx -T` lists them."""
    rc, out, err = run(["nginx", "-T", "-c", main])
    if rc == 127:
        return {"version": None, "running": False, "files": {}, "main": main, "reason": err.strip()}
    names = re.findall(r"^# configuration file (.+):$", out, flags=re.MULTILINE)
    return {
        "version": run(["nginx", "-v"])[2].strip().rpartition("/")[2],
        "running": run(["systemctl", "is-active", service])[1].strip() == "active",
        "files": {name: Path(name).read_text() for name in names},
        "main": main,
        "reason": None if rc == 0 else err.strip(),
    }


def listening(text: str) -> list[dict[str, Any]]:
    """Listening TCP sockets from the output of `ss -Hltnp`; process is None for another namespace's."""
    found = []
    for line in text.splitlines():
        fields = line.split(None, 5)
        address, _, port = fields[3].rpartition(":")
        process = re.search(r'"([^"]+)"', fields[5]) if len(fields) > 5 else None
        found.append({"address": address, "port": int(port), "process": process[1] if process else None})
    return found


class _DockerSocket(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(DOCKER_SOCKET)


def image_in_registry(reference: str) -> dict[str, Any]:
    """The manifest digest that a pull would get now, asked through the host's own engine.

    The engine knows its mirrors, proxies, certificates and insecure registries (Engine API, DistributionInspect).
    """
    name = quote(reference, safe="/:@")
    status, answer = _exchange(_DockerSocket("localhost"), "GET", f"/distribution/{name}/json")
    digest = answer["Descriptor"]["digest"] if status == 200 else None
    reason = None if digest else (answer or {}).get("message", "the Docker engine does not answer")
    return {"reference": reference, "digest": digest, "error": reason}


def hostctl(run: Run) -> dict[str, Any]:
    """Whether hostctl is installed, and its status."""
    rc, out, err = run([HOSTCTL, "status"])
    if rc == 127:
        return {"installed": False, "status": None}
    try:
        return {"installed": True, "status": json.loads(out)}
    except ValueError:
        return {"installed": True, "status": {"error": (out + err).strip()}}


def main() -> None:
    """Answer Ansible."""
    texts = ("triton_container", "nginx_service", "vllm_image")
    paths = ("triton_model_repository", "nginx_config_file", "vllm_weights_source")
    spec: dict[str, Any] = {name: {"type": "str", "required": True} for name in texts}
    spec |= {name: {"type": "path", "required": True} for name in paths}
    module = AnsibleModule(spec | {"triton_http_port": {"type": "int", "required": True}}, supports_check_mode=True)
    module.exit_json(changed=False, host_facts=read_host(module.params, runner(module)))


if __name__ == "__main__":
    main()
