"""The Docker engine of this machine, and the few programs that the lab calls; what is missing is installed, saying so.

Installing needs root on a Debian-like system; elsewhere the error names the command to type.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import docker

from migrate.lab import command
from migrate.lab.errors import LabError
from migrate.lab.progress import Say, step

TOOLS = {"debootstrap": "debootstrap", "ssh-keygen": "openssh-client", "tar": "tar"}
ENGINE_PACKAGES = ["docker.io", "iptables"]
ENGINE_START_S = 60
REQUEST_TIMEOUT_S = 600


def connect() -> docker.DockerClient | None:
    """A client of the engine, or None when none answers."""
    try:
        client = docker.from_env(timeout=REQUEST_TIMEOUT_S)
        client.ping()
    except docker.errors.DockerException:
        return None
    return client


def require(cache: Path, say: Say) -> docker.DockerClient:
    """A client of a running engine; installs and starts one where it may, else raises LabError."""
    client = connect()
    if client is not None:
        return client
    elsewhere = os.environ.get("DOCKER_HOST")
    if elsewhere:
        raise LabError(f"no Docker engine answers at DOCKER_HOST={elsewhere}", advice="unset DOCKER_HOST")
    if shutil.which("dockerd") is None:
        _install(ENGINE_PACKAGES, "no Docker engine answers", say)
    if os.geteuid() != 0:
        raise LabError("no Docker engine answers", advice="sudo systemctl start docker")
    return _start(cache, say)


def require_tools(say: Say) -> None:
    """Install the programs that are missing, or raise LabError."""
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if missing:
        _install(missing, f"missing: {', '.join(missing)}", say)


def _install(packages: list[str], reason: str, say: Say) -> None:
    line = f"apt-get install --yes --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise LabError(reason, advice=f"sudo {line}")
    say(f"{reason}: about to run `{line}`")
    with step(say, f"installing {' '.join(packages)}"):
        command.run(["apt-get", "update", "--quiet"], timeout_s=300)
        command.run(["env", "DEBIAN_FRONTEND=noninteractive", *line.split()], timeout_s=900)


def _start(cache: Path, say: Say) -> docker.DockerClient:
    log = cache / "dockerd.log"
    cache.mkdir(parents=True, exist_ok=True)
    say(f"starting dockerd, its log is {log}")
    with log.open("ab") as output:
        subprocess.Popen(["dockerd"], stdout=output, stderr=output, start_new_session=True)  # noqa: S607
    deadline = time.monotonic() + ENGINE_START_S
    while time.monotonic() < deadline:
        client = connect()
        if client is not None:
            return client
        time.sleep(0.5)
    raise LabError(f"dockerd does not answer after {ENGINE_START_S} s; its log is {log}", advice=f"tail {log}")
