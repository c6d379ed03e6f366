#!/usr/bin/python
"""Reads everything that a plan needs to know about a host, and changes nothing."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.module_utils import migrate_containers as containers
from ansible.module_utils import migrate_gpu as gpu
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.migrate_clients import clients
from ansible.module_utils.migrate_host import Run
from ansible.module_utils.migrate_models import Trees, model_repository
from ansible.module_utils.migrate_nginx import nginx
from ansible.module_utils.migrate_owner import owner
from ansible.module_utils.migrate_parts import Parts
from ansible.module_utils.migrate_triton import connection, triton
from ansible.module_utils.migrate_weights import SPEC as WEIGHTS_SPEC
from ansible.module_utils.migrate_weights import nearest, weights

DOCUMENTATION = r"""
module: host_facts
short_description: Reads the Triton stack, nginx, Docker and the hardware of a host
description:
  - Read-only, in check mode too. A part that the host lacks is null, false or empty with the reason beside it.
options:
  triton_container: {type: str, required: true, description: Name of the container that serves Triton.}
  triton_compose_file: {type: str, default: "", description: Compose file that the container is started from.}
  triton_http_port: {type: int, required: true, description: Triton's HTTP port on the host.}
  triton_grpc_port: {type: int, default: 8001, description: Triton's gRPC port on the host.}
  triton_metrics_port: {type: int, default: 8002, description: Triton's metrics port on the host.}
  triton_model_repository: {type: path, required: true, description: Model repository on the host.}
  nginx_service: {type: str, required: true, description: Unit of the operator's nginx.}
  nginx_config_file: {type: path, required: true, description: Its main configuration file.}
  nginx_access_logs: {type: list, elements: path, default: [], description: Its access logs.}
  public_ports: {type: list, elements: int, default: [], description: Ports that clients use.}
  window_s: {type: int, default: 86400, description: How far back the access logs are read, in seconds.}
  watch_s: {type: int, default: 0, description: How long open connections are watched, in seconds.}
  vllm_image: {type: str, required: true, description: Reference of the vLLM image.}
  vllm_weights_source: {type: path, default: "", description: Folder of the model's weights on the host.}
  vllm_weights_path: {type: path, default: "", description: Where the weights are to be; its disk is looked at.}
  weights_repository: {type: str, default: "", description: Repository of the weights on the hub instead.}
  weights_revision: {type: str, default: "", description: Branch, tag or commit there; the usual branch if empty.}
  weights_hub: {type: str, default: huggingface, choices: [huggingface, modelscope], description: The hub.}
  weights_endpoint: {type: str, default: "", description: Address of a mirror of the hub.}
  weights_proxy: {type: str, default: "", description: HTTP proxy on the way there.}
  weights_allow: {type: list, elements: str, default: [], description: Patterns of the files that are fetched.}
  weights_offline_copy: {type: path, default: "", description: Folder or tar archive brought by hand.}
  weights_token: {type: str, default: "", description: Token for the hub.}
  gpu_root: {type: path, default: /, description: Where proc and sys of the driver are read; / but for stand-ins.}
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

HOSTCTL = "/usr/local/lib/migrate/hostctl"
COMMAND_TIMEOUT_S = 30
_ADMIN_FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_THREADS = 8
# timex.status of adjtimex(2) after modes, offset, freq, maxerror, esterror, on 64-bit Linux; STA_UNSYNC is 0x40.
_TIMEX_BYTES, _TIMEX_STATUS, _UNSYNCHRONIZED = 256, 40, 0x40


def read_host(params: dict[str, Any], run: Run, root: Path = Path("/")) -> dict[str, Any]:
    """All facts of the host as one JSON object; sizes are bytes. What does not wait for another is read at once.

    `reasons` names every part that could not be read at all.
    """
    get, trees, parts = containers.engine(root / "var/run/docker.sock"), Trees(), Parts()
    readers: list[Callable[[], dict[str, Any]]] = [
        lambda: _one("vllm_image", parts, lambda: containers.image_in_registry(params["vllm_image"], get)),
        lambda: _one("triton.api", parts, lambda: _triton(params["triton_http_port"])),
        lambda: _stack(params, get, run, root, parts),
        lambda: _models(params, trees, parts),
        lambda: _one("docker", parts, lambda: containers.docker(get, run)),
        lambda: _one("podman", parts, lambda: containers.podman(run)),
        lambda: _one("hostctl", parts, lambda: hostctl(run)),
        lambda: _one("nginx", parts, lambda: nginx(params["nginx_service"], params["nginx_config_file"], run)),
        lambda: _one("clients", parts, lambda: clients(run, params)),
        lambda: _system(params, run, root, parts),
    ]
    with ThreadPoolExecutor(_THREADS) as pool:
        running = [pool.submit(reader) for reader in readers]
        found = {key: value for future in running for key, value in future.result().items()}
    told = [found.pop("triton.container"), found.pop("triton.api")]
    why = "; ".join(part["reason"] for part in told if part.get("reason")) or None
    return {"triton": told[1] | told[0] | {"reason": why}, **found, "reasons": parts.reasons}


def _one(name: str, parts: Parts, reader: Callable[[], Any]) -> dict[str, Any]:
    return {name: parts.read(name, reader)}


def _stack(params: dict[str, Any], get: containers.Engine, run: Run, root: Path, parts: Parts) -> dict[str, Any]:
    """Containers, and what is known by them: Triton's, its owner, and whose processes are on the cards."""
    known = parts.read("containers", lambda: containers.inspected(get)) or []
    cards = parts.read("gpus", lambda: gpu.gpus(run, containers.container_of(known, root / "proc")))
    told = cards[1] if cards else {"version": None, "reason": parts.reasons["gpus"]}
    return {
        "gpus": cards[0] if cards else None,
        "driver": parts.read("driver", lambda: gpu.driver(told, root / params["gpu_root"].lstrip("/"))),
        "containers": parts.read("containers", lambda: containers.containers(known)),
        "compose_projects": parts.read("compose_projects", lambda: containers.compose_projects(known)),
        "owner": parts.read("owner", lambda: owner(params, known, run, root)),
        "triton.container": parts.read("triton.container", lambda: _container(params["triton_container"], known, get)),
    }


def _container(name: str, known: list[dict[str, Any]], get: containers.Engine) -> dict[str, Any]:
    found = next((c for c in known if containers.name_of(c) == name), None)
    return {
        "container": containers.serving(found, get) if found else None,
        "reason": None if found else f"no container is named {name}",
    }


def _triton(port: int) -> dict[str, Any]:
    with connection(port) as ask:
        return triton(ask)


def _models(params: dict[str, Any], trees: Trees, parts: Parts) -> dict[str, Any]:
    """The weights first: they are often within the repository, and are then hashed once."""
    repository = Path(params["triton_model_repository"])
    found = parts.read("weights", lambda: weights(params, trees))
    return {
        "weights": {"path": params["vllm_weights_source"]} | found,
        "model_repository": {"path": str(repository)}
        | parts.read("model_repository", lambda: model_repository(repository, trees)),
    }


def _system(params: dict[str, Any], run: Run, root: Path, parts: Parts) -> dict[str, Any]:
    toolkits, nccl = parts.read("cuda", lambda: gpu.toolkits_and_nccl(run, root / "usr/local")) or (None, None)
    synchronized = parts.read("clock", clock_is_synchronized)
    return {
        "os": parts.read("os", lambda: operating_system(root / "etc/os-release")),
        "kernel": os.uname().release,
        "machine": os.uname().machine,
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "memory_available_bytes": parts.read("memory", lambda: available_memory(root / "proc/meminfo")),
        "disks": parts.read("disks", lambda: disks(["/", "/var/lib", "/var/lib/docker", *nearest(params)])),
        "clock": {"utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "synchronized": synchronized},
        "cuda_toolkits": toolkits,
        "nccl": nccl,
        "listening": parts.read("listening", lambda: listening(run(["ss", "-Hltnp"]))),
    }


def operating_system(path: Path) -> dict[str, Any]:
    """Identity from os-release; `lab_note` is set where a lab says that it only presents itself as this system."""
    text = path.read_text(errors="replace") if path.is_file() else ""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    values = {key: value.strip('"') for key, _, value in pairs}
    names = {"id": "ID", "version_id": "VERSION_ID", "pretty_name": "PRETTY_NAME", "lab_note": "LAB_NOTE"}
    return {ours: values.get(theirs) for ours, theirs in names.items()}


def available_memory(meminfo: Path) -> int | None:
    """MemAvailable in bytes."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text() if meminfo.is_file() else "", re.MULTILINE)
    return int(found[1]) << 10 if found else None


def disks(paths: list[str]) -> dict[str, dict[str, int]]:
    """Size and free space of the file systems under the paths that exist."""
    used = {path: shutil.disk_usage(path) for path in paths if os.path.isdir(path)}
    return {path: {"total": usage.total, "free": usage.free} for path, usage in used.items()}


def clock_is_synchronized() -> bool | None:
    """Whether the kernel counts its clock as synchronised (adjtimex(2), asked without setting anything)."""
    told = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        if ctypes.CDLL(None).adjtimex(told) < 0:
            return None
    except (OSError, AttributeError):
        return None
    return not int.from_bytes(told.raw[_TIMEX_STATUS : _TIMEX_STATUS + 4], "little") & _UNSYNCHRONIZED


def listening(answer: tuple[int, str, str]) -> list[dict[str, Any]] | None:
    """Listening TCP sockets of `ss -Hltnp`; process is None for another namespace's; None where ss fails.

    A line of another form is left out.
    """
    rc, out, _ = answer
    if rc != 0:
        return None
    found = []
    for line in out.splitlines():
        fields = line.split(None, 5)
        address, _, port = fields[3].rpartition(":") if len(fields) > 3 else ("", "", "")
        if not port.isdecimal():
            continue
        process = re.search(r'"([^"]+)"', fields[5]) if len(fields) > 5 else None
        found.append({"address": address, "port": int(port), "process": process[1] if process else None})
    return found


def hostctl(run: Run) -> dict[str, Any]:
    """Whether hostctl is installed, and its status."""
    rc, out, err = run([HOSTCTL, "status"])
    if rc == 127:
        return {"installed": False, "status": None}
    try:
        return {"installed": True, "status": json.loads(out)}
    except ValueError:
        return {"installed": True, "status": {"error": (out + err).strip()}}


def bounded(timeout_s: float) -> Run:
    """Runs commands in the C locale: a missing program is rc 127, one that does not end in time rc 124."""
    environment = os.environ | {"LC_ALL": "C", "PATH": f"{os.environ.get('PATH', '')}:{_ADMIN_FOLDERS}"}

    def run(argv: list[str]) -> tuple[int, str, str]:
        program = shutil.which(argv[0], path=environment["PATH"])
        if program is None:
            return 127, "", f"{argv[0]}: No such file or directory"
        try:
            done = subprocess.run(  # noqa: S603 - a list, no shell
                [program, *argv[1:]],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=timeout_s,
                env=environment,
                text=True,
                errors="replace",
                check=False,
            )
        except subprocess.TimeoutExpired:
            return 124, "", f"{argv[0]} did not end in {timeout_s:g} s"
        return done.returncode, done.stdout, done.stderr

    return run


def main() -> None:
    """Answer Ansible."""
    texts = ("triton_container", "nginx_service", "vllm_image")
    paths = ("triton_model_repository", "nginx_config_file")
    spec: dict[str, Any] = {name: {"type": "str", "required": True} for name in texts}
    spec |= {name: {"type": "path", "required": True} for name in paths}
    spec |= {
        "triton_http_port": {"type": "int", "required": True},
        "triton_compose_file": {"type": "str", "default": ""},
        "triton_grpc_port": {"type": "int", "default": 8001},
        "triton_metrics_port": {"type": "int", "default": 8002},
        "nginx_access_logs": {"type": "list", "elements": "path", "default": []},
        "public_ports": {"type": "list", "elements": "int", "default": []},
        "window_s": {"type": "int", "default": 86400},
        "watch_s": {"type": "int", "default": 0},
        **WEIGHTS_SPEC,
        "gpu_root": {"type": "path", "default": "/"},
    }
    module = AnsibleModule(spec, supports_check_mode=True)
    module.exit_json(changed=False, host_facts=read_host(module.params, bounded(COMMAND_TIMEOUT_S)))


if __name__ == "__main__":
    main()
