"""Who owns the Triton process, and what would bring it back once it is stopped.

The owner is known by the labels of the container (compose, Swarm and Kubernetes set them), by the systemd unit that
names the container or holds the process, by podman, or by the control group of the process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils.migrate_containers import cgroup, labels, name_of
from ansible.module_utils.migrate_host import Run
from ansible.module_utils.migrate_revivers import Unit, matched, revivers, state_of, units

_PROCESS = "tritonserver"
_COMPOSE = "com.docker.compose."
_UNIT = re.compile(r"/system\.slice/(?:[^/\n]+/)*([^/\n]+\.service)(?:/|$)", re.MULTILINE)
_LIBPOD = re.compile(r"libpod-([0-9a-f]{64})")
_DOCKER = re.compile(r"docker[-/]([0-9a-f]{64})")
_KUBERNETES = re.compile(r"kubepods|cri-containerd|crio-")

Owner = tuple[str, str | None, list[str]]


def owner(params: dict[str, Any], found: list[dict[str, Any]], run: Run, root: Path) -> dict[str, Any]:
    """`kind` is compose, docker, systemd, podman, process, kubernetes or unknown; `evidence` says why.

    `found` are the inspected containers; `params` names Triton's container and, where it has one, its compose file.
    """
    name = params["triton_container"]
    container = next((c for c in found if name_of(c) == name), None)
    files = _compose_files(container, params)
    mine = {unit: word for unit in units(root) if (word := matched(unit.commands, name, files, root))}
    if container:
        kind, who, evidence = _of_container(container, mine)
    else:
        kind, who, evidence = _of_podman(name, run, list(mine)) or _of_process(list(mine), found, root)
    back = revivers(name, files, container, run, root) if kind != "kubernetes" else []
    if str(who).endswith(".service") and not any(str(who) in entry["what"] for entry in back):
        back.append({"kind": "systemd unit", "what": state_of(str(who), run), "where": str(who)})
    return {"kind": kind, "name": who, "evidence": evidence, "revivers": back + _watchers(found)}


def _of_container(container: dict[str, Any], mine: dict[Unit, str]) -> Owner:
    """`mine` are the units that start it, each with the word that its command names it by: commands hold secrets."""
    name, tags = name_of(container), labels(container)
    if pod := tags.get("io.kubernetes.pod.name"):
        space = tags.get("io.kubernetes.pod.namespace")
        return "kubernetes", pod, [f"label io.kubernetes.pod.name={pod} in namespace {space}"]
    if service := tags.get("com.docker.swarm.service.name"):
        return "unknown", service, [f"Docker Swarm's service {service} (label com.docker.swarm.service.name)"]
    if project := tags.get(f"{_COMPOSE}project"):
        service = tags.get(f"{_COMPOSE}service")
        told = [f"label {_COMPOSE}project={project}", f"label {_COMPOSE}service={service}"]
        return "compose", f"{project}/{service}", told + [f"{unit.path} runs it" for unit in mine]
    if mine:
        return "systemd", next(iter(mine)).name, [f"{unit.path} names {word}" for unit, word in mine.items()]
    return "docker", name, [f"container {name} carries no label of compose", "no systemd unit names it"]


def _of_podman(name: str, run: Run, mine: list[Unit]) -> Owner | None:
    rc, out, _ = run(["podman", "ps", "--all", "--format", "json"])
    try:
        known = json.loads(out or "[]") if rc == 0 else []
    except ValueError:
        known = []
    entry = next((c for c in known or [] if name in (c.get("Names") or [])), None)
    if entry is None:
        return None
    unit = (entry.get("Labels") or {}).get("PODMAN_SYSTEMD_UNIT") or (mine[0].name if mine else None)
    told = [f"podman lists container {name}, {entry.get('State')}"]
    return "podman", unit or name, told + ([f"systemd unit {unit} runs it"] if unit else [])


def _of_process(mine: list[Unit], found: list[dict[str, Any]], root: Path) -> Owner:
    """Triton outside Docker and podman: by the control group of its process."""
    pid = next(iter(_pids(root / "proc")), None)
    if pid is None:
        told = [f"no container and no process {_PROCESS} was found"]
        return "unknown", None, told + [f"{unit.path} would run it" for unit in mine]
    group = cgroup(pid, root / "proc")
    told = [f"process {pid} {_PROCESS}, control group {_short(group)}"]
    if _KUBERNETES.search(group):
        return "kubernetes", _PROCESS, told
    if libpod := _LIBPOD.search(group):
        return "podman", libpod[1][:12], told
    if docker := _DOCKER.search(group):
        named = next((name_of(c) for c in found if c["Id"] == docker[1]), docker[1][:12])
        return "docker", named, [*told, f"it runs in container {named}; triton_container names another"]
    if unit := _UNIT.search(group):
        return "systemd", unit[1], told
    return "process", f"{_PROCESS} ({pid})", told


def _pids(proc: Path) -> list[int]:
    """Processes named tritonserver, the oldest first."""
    found = []
    for folder in proc.glob("[0-9]*"):
        try:
            if (folder / "comm").read_text().strip() == _PROCESS:
                found.append(int(folder.name))
        except OSError:
            continue
    return sorted(found)


def _compose_files(container: dict[str, Any] | None, params: dict[str, Any]) -> list[str]:
    listed = labels(container or {}).get(f"{_COMPOSE}project.config_files") or params.get("triton_compose_file") or ""
    return [part for part in listed.split(",") if part]


def _watchers(found: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """Containers that update or restart others."""
    known = [(name_of(c), str(c["Config"]["Image"])) for c in found if c["State"]["Status"] == "running"]
    return [
        {"kind": "watchtower", "what": f"image {image}", "where": f"container {name}"}
        for name, image in known
        if re.search(r"(^|/)(watchtower|autoheal)(:|@|$)", image)
    ]


def _short(group: str) -> str:
    """The path of the last line of /proc/PID/cgroup."""
    return (group.strip().splitlines() or ["unknown"])[-1].rpartition(":")[2]
