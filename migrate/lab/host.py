"""gpu01: a container with systemd, sshd, nginx and a Docker engine of its own, as an operator would have left it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import httpx

from migrate.lab import files, names, registry, secret
from migrate.lab.errors import LabError
from migrate.lab.progress import Say, step

BOOT_S = 60
TRITON_S = 180


def container_spec(image: str, content: str) -> dict[str, Any]:
    """The body of the engine's `create`: nearly privileged, but without the one right that not every root has."""
    volumes = [f"{names.HOST_VOLUME}:/var/lib/docker", "/sys/fs/cgroup:/sys/fs/cgroup:rw"]
    ports = {f"{port.inside}/tcp": [_binding(port)] for port in names.PUBLISHED}
    return {
        "Image": image,
        "Cmd": ["/sbin/init"],
        "Hostname": names.HOST,
        "Labels": {names.LABEL: names.LABEL_VALUE, names.LABEL_CONTENT: content},
        "Env": ["container=docker"],
        "StopSignal": "SIGRTMIN+3",
        "ExposedPorts": {port: {} for port in ports},
        "HostConfig": {
            "CapAdd": ["ALL"],
            "CapDrop": ["SYS_RESOURCE"],
            "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"],
            "MaskedPaths": [],
            "ReadonlyPaths": [],
            "CgroupnsMode": "host",
            "Tmpfs": {"/run": "", "/run/lock": ""},
            "Binds": volumes,
            "PortBindings": ports,
            "NetworkMode": names.NETWORK,
            "RestartPolicy": {"Name": "always"},
        },
    }


def is_running(client: docker.DockerClient, content: str) -> bool:
    """Whether gpu01 runs and was made from this content."""
    container = registry.find(client, names.HOST_CONTAINER)
    return bool(container and container.status == "running" and container.labels.get(names.LABEL_CONTENT) == content)


def start(client: docker.DockerClient, image: str, content: str, archive: bytes, say: Say) -> None:
    """Make gpu01 anew, boot it and start what its operator runs there; ends when nginx and Docker are up."""
    remove(client)
    with step(say, f"starting {names.HOST}"):
        client.volumes.create(names.HOST_VOLUME, labels={names.LABEL: names.LABEL_VALUE})
        made = client.api.create_container_from_config(container_spec(image, content), names.HOST_CONTAINER)
        container = client.containers.get(made["Id"])
        container.put_archive("/", archive)
        container.start()
        _wait(
            BOOT_S,
            "Docker and nginx on gpu01",
            lambda: _succeeds(container, "docker info && systemctl is-active nginx"),
        )
        _execute(container, f"chpasswd < {files.PASSWORD_FILE} && rm {files.PASSWORD_FILE}")
        _execute(container, f"chown -R {names.OPERATOR}:{names.OPERATOR} /home/{names.OPERATOR}")
    with step(say, f"{names.HOST} pulls and starts its compose project (Triton, statuspage)"):
        _execute(container, f"docker compose --file {names.COMPOSE_FILE} up --detach --quiet-pull")


def wait_for_triton(say: Say) -> None:
    """Wait until both models answer through gpu01's nginx."""
    with step(say, "waiting for Triton's first answer"):
        _wait(TRITON_S, "Triton on gpu01", triton_answers)


def triton_answers() -> bool:
    """Whether `phi2` generates and `phi2_stream` is ready, asked on the published port."""
    base = f"http://{names.ADDRESS}:{names.HTTP.outside}/v2/models"
    question = {"text_input": "def f(", "max_tokens": 4}
    try:
        answer = httpx.post(f"{base}/phi2/generate", json=question, timeout=10, trust_env=False)
        ready = httpx.get(f"{base}/phi2_stream/ready", timeout=5, trust_env=False)
    except httpx.TransportError:
        return False
    return answer.status_code == 200 and "text_output" in answer.json() and ready.status_code == 200


def remove(client: docker.DockerClient) -> None:
    """Remove gpu01 and everything that its Docker engine kept."""
    container = registry.find(client, names.HOST_CONTAINER)
    if container is not None:
        container.remove(force=True, v=True)
    for volume in client.volumes.list(filters={"name": names.HOST_VOLUME}):
        volume.remove(force=True)


def secrets_of(inventory: Path) -> secret.Secrets:
    """The secrets of the lab's inventory, made if anything is missing."""
    wanted = secret.Secrets(inventory)
    if not wanted.are_complete():
        secret.make(wanted)
    return wanted


def _binding(port: names.Published) -> dict[str, str]:
    return {"HostIp": names.ADDRESS, "HostPort": str(port.outside)}


def _execute(container: docker.models.containers.Container, line: str) -> None:
    code, output = container.exec_run(["sh", "-c", line])
    if code:
        raise LabError(
            f"on {names.HOST}, `{line}` failed with {code}: {output.decode(errors='replace').strip()[-600:]}",
            advice="migrate lab down, then migrate lab up",
        )


def _succeeds(container: docker.models.containers.Container, line: str) -> bool:
    try:
        return bool(container.exec_run(["sh", "-c", line]).exit_code == 0)
    except docker.errors.APIError:
        return False


def _wait(limit_s: float, what: str, is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if is_true():
            return
        time.sleep(0.5)
    raise LabError(
        f"{what}: no answer after {limit_s:.0f} s", advice=f"docker exec {names.HOST_CONTAINER} journalctl -b"
    )
