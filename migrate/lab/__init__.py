"""The lab: gpu01, a host with a real Triton behind nginx, and where its images and driver packages come from.

    status = up(bundled.root(), print)

What is up is found by asking Docker; the cache only saves time.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import docker

from migrate.lab import apt, build, cache, engine, files, host, model, names, registry, secret
from migrate.lab.errors import LabError
from migrate.lab.progress import Say

__all__ = ["LabError", "LabStatus", "Part", "down", "shell_command", "status", "up"]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the lab, whether it is up, and a word on it."""

    name: str
    is_up: bool
    detail: str


@dataclass(frozen=True, slots=True)
class LabStatus:
    """Every part, and the addresses at which the lab is reached."""

    parts: tuple[Part, ...]
    urls: dict[str, str]

    @property
    def is_up(self) -> bool:
        """Whether every part is."""
        return all(part.is_up for part in self.parts)


def up(root: Path, say: Say, *, fresh: bool = False) -> LabStatus:
    """Make whatever is missing, until Triton answers through gpu01's nginx; with `fresh`, gpu01 is made anew.

    `root` holds `lab` and `inventory/lab`. Raises LabError.
    """
    started = time.monotonic()
    kept = _cache()
    recipe = build.read(root / "lab", kept)
    with cache.only_one(kept):
        client = engine.require(kept, say)
        engine.require_tools(say)
        secrets = host.secrets_of(_inventory(root))
        content = recipe.host_content(secrets.fingerprint())
        image = build.everything(client, recipe, say)
        with ThreadPoolExecutor(max_workers=1) as pool:
            packages = pool.submit(apt.ensure, client, recipe.lab, recipe.cache, recipe.base, say)
            if fresh or not host.is_running(client, content):
                password = secret.sudo_password(secrets)
                archive = files.pack(files.host_files(recipe.lab, recipe.model, secrets, password))
                host.start(client, image, content, archive, say)
                host.wait_for_triton(say)
            else:
                _require_triton()
            packages.result()
    say(f"model: {model.report(recipe.model)}")
    say(f"the lab is up ({time.monotonic() - started:.0f} s)")
    return status(root)


def down(root: Path, say: Say, *, purge: bool = False) -> LabStatus:
    """Remove everything that `up` made: containers, volume, network, images, secrets; with `purge` the cache too."""
    with cache.only_one(_cache()):
        client = engine.connect()
        if client is None:
            say("no Docker engine answers: nothing of the lab can be running")
        else:
            _remove_all(client, say)
        secret.remove(secret.Secrets(_inventory(root)))
    if purge:
        apt.purge(_cache())
        cache.purge(_cache())
    say("the lab is down" + (", its cache is removed" if purge else f"; its cache stays in {_cache()}"))
    return status(root)


def status(root: Path) -> LabStatus:
    """What is up now; changes nothing."""
    client = engine.connect()
    secrets = secret.Secrets(_inventory(root))
    containers = [_container_part(client, name) for name in (names.REGISTRY, names.APT, names.HOST_CONTAINER)]
    answers = containers[-1].is_up and host.triton_answers()
    parts = (
        Part("docker engine", client is not None, "answers" if client else "does not answer"),
        *containers,
        Part("triton", answers, "answers" if answers else "does not answer"),
        Part("secrets", secrets.are_complete(), str(secrets.directory)),
    )
    return LabStatus(parts, _urls())


def shell_command(root: Path, words: tuple[str, ...] = ()) -> list[str]:
    """The ssh command that opens a shell on gpu01 as its operator, or runs `words` there."""
    secrets = secret.Secrets(_inventory(root))
    options = [f"UserKnownHostsFile={secrets.known_hosts}", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes"]
    argv = ["ssh", "-i", str(secrets.identity), "-p", str(names.SSH.outside)]
    argv += [word for option in options for word in ("-o", option)]
    return [*argv, f"{names.OPERATOR}@{names.ADDRESS}", *words]


def _require_triton() -> None:
    if not host.triton_answers():
        raise LabError(
            f"{names.HOST} runs, but its Triton does not answer on port {names.HTTP.outside}",
            advice="migrate lab down, then migrate lab up",
        )


def _cache() -> Path:
    return cache.location(dict(os.environ))


def _inventory(root: Path) -> Path:
    return root / "inventory" / "lab"


def _remove_all(client: docker.DockerClient, say: Say) -> None:
    ours = {"label": f"{names.LABEL}={names.LABEL_VALUE}"}
    for container in client.containers.list(all=True, filters=ours):
        say(f"removing {container.name}")
        container.remove(force=True, v=True)
    host.remove(client)
    for volume in client.volumes.list(filters=ours):
        volume.remove(force=True)
    for network in client.networks.list(filters=ours):
        network.remove()
    for image in sorted(client.images.list(filters=ours), key=lambda found: found.attrs["Created"], reverse=True):
        client.images.remove(image.id, force=True)


def _container_part(client: docker.DockerClient | None, name: str) -> Part:
    container = registry.find(client, name) if client else None
    state = container.status if container else "absent"
    return Part(name, state == "running", state)


def _urls() -> dict[str, str]:
    address = names.ADDRESS
    return {
        "http": f"http://{address}:{names.HTTP.outside}/v2/models/phi2/generate",
        "https": f"https://{address}:{names.HTTPS.outside}/v2/models/phi2/generate",
        "grpc": f"{address}:{names.GRPC.outside}",
        "ssh": f"{names.OPERATOR}@{address}:{names.SSH.outside}",
        "registry": f"http://{names.PUSH_ADDRESS}/v2/_catalog",
        "apt": f"http://{address}:{names.APT_PORT}/",
    }
