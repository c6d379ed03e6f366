"""The image registry of the lab: Debian's docker-registry in a container, its blobs in the cache."""

from __future__ import annotations

import io
import tarfile
import time
from pathlib import Path

import docker
import httpx

from migrate.lab import names
from migrate.lab.errors import LabError

START_S = 30


def ensure_network(client: docker.DockerClient) -> None:
    """Make the network on which gpu01 finds the registry by name."""
    if not client.networks.list(names=[names.NETWORK]):
        client.networks.create(names.NETWORK, labels={names.LABEL: names.LABEL_VALUE})


def find(client: docker.DockerClient, name: str) -> docker.models.containers.Container | None:
    """The container `name`, or None."""
    try:
        return client.containers.get(name)
    except docker.errors.NotFound:
        return None


def is_serving(client: docker.DockerClient, key: str) -> bool:
    """Whether the registry runs with the storage of this content."""
    container = find(client, names.REGISTRY)
    return bool(container and container.status == "running" and container.labels.get(names.LABEL_CONTENT) == key)


def start(client: docker.DockerClient, image: str, lab: Path, storage: Path, key: str) -> None:
    """Run the registry on `storage` and wait until it answers; whatever ran before is replaced."""
    old = find(client, names.REGISTRY)
    if old is not None:
        old.remove(force=True)
    storage.mkdir(parents=True, exist_ok=True)
    container = client.containers.create(
        image,
        ["docker-registry", "serve", "/registry.yml"],
        name=names.REGISTRY,
        hostname=names.REGISTRY_ALIAS,
        labels={names.LABEL: names.LABEL_VALUE, names.LABEL_CONTENT: key},
        volumes={
            str(storage): {"bind": "/var/lib/docker-registry", "mode": "rw"},
        },
        ports={f"{names.REGISTRY_PORT}/tcp": (names.ADDRESS, names.REGISTRY_PORT)},
        restart_policy={"Name": "unless-stopped"},
    )
    # A copy, not a mount: the registry must start again when the clone that made it is gone.
    container.put_archive("/", _archive(lab / "images" / "registry.yml"))
    client.networks.get(names.NETWORK).connect(container, aliases=[names.REGISTRY_ALIAS])
    container.start()
    _wait()


def _archive(file: Path) -> bytes:
    """A tar archive of one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(file, arcname=file.name)
    return buffer.getvalue()


def _wait() -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"http://{names.PUSH_ADDRESS}/v2/", timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise LabError(f"the lab's registry does not answer after {START_S} s", advice=f"docker logs {names.REGISTRY}")
