"""The lab's real Triton and vLLM in containers of their own, with the same weights, and the gateway of this tree."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import docker
import httpx
import yaml
from docker.models.containers import Container

from migrate import bundled
from migrate.lab import names

_START_S = 300
_PORTS = (8000, 8001)
_LOADED = ("phi2", "phi2_stream", "ranker")
_MOVED = {"phi2": "python", "phi2_stream": "vllm"}


class NotServing(Exception):
    """A server that the comparison needs does not answer, so nothing may be concluded."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server of Triton's protocol answers; `grpc` is HOST:PORT, as `http` is."""

    name: str
    http: str
    grpc: str

    def address(self, client: str) -> str:
        """The address for a kind of client."""
        return self.http if client.startswith("http") else self.grpc

    def require_ready(self) -> None:
        """Raise NotServing unless the server says that it is ready."""
        _require(self.http, "/v2/health/ready", self.name)


def copy_models(engine: docker.DockerClient, target: Path) -> Path:
    """gpu01's model repository, with its weights and this tree's models; returns it."""
    chunks, _ = engine.containers.get(names.HOST_CONTAINER).get_archive(names.MODELS)
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        archive.extractall(target, filter="data")
    repository = target / Path(names.MODELS).name
    shutil.copytree(bundled.root() / "lab" / "triton", repository, dirs_exist_ok=True)
    return repository


@contextmanager
def triton(engine: docker.DockerClient, models: Path) -> Iterator[tuple[Server, Container]]:
    """The real Triton, with the command of gpu01's operator and its own container; it may not be ready yet."""
    command = ["tritonserver", "--model-repository=/models", "--model-control-mode=explicit", "--exit-on-error=true"]
    options = {
        "command": [*command, *(f"--load-model={name}" for name in _LOADED)],
        "environment": {"OMP_NUM_THREADS": "1"},
        "volumes": {str(models): {"bind": "/models", "mode": "ro"}},
    }
    with _container(engine, names.TRITON, options) as container:
        yield Server("triton", _published(container, 8000), _published(container, 8001)), container


@contextmanager
def vllm(engine: docker.DockerClient, models: Path) -> Iterator[str]:
    """The real vLLM with phi2's weights and the lab's settings; yields its HOST:PORT, it may not be ready yet."""
    settings = yaml.safe_load((bundled.root() / "inventory/lab/group_vars/all/main.yml").read_text(encoding="utf-8"))
    command = ["--model", "/model", "--served-model-name", settings["vllm_served_model_name"]]
    for name, value in settings["vllm_args"].items():
        command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    options = {
        "command": command,
        "environment": settings["vllm_environment"],
        "volumes": {str(models / "phi2" / "1" / "weights"): {"bind": "/model", "mode": "ro"}},
    }
    with _container(engine, names.VLLM, options) as container:
        yield _published(container, 8000)


@contextmanager
def gateway(folder: Path, vllm_address: str, recorded: dict[str, Any], passthrough: Server | None) -> Iterator[Server]:
    """The gateway as a process, ready; with `passthrough`, whatever it does not know is asked there."""
    http, grpc = _free_port(), _free_port()
    server = Server("gateway", f"{names.ADDRESS}:{http}", f"{names.ADDRESS}:{grpc}")
    path, log_path = folder / "gateway.yaml", folder / "gateway.log"
    path.write_text(yaml.safe_dump(_configuration(http, grpc, vllm_address, recorded, passthrough)), encoding="utf-8")
    with log_path.open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "migrate.gateway", str(path)], stdout=log, stderr=log)
    try:
        wait_for(server.require_ready, lambda: process.poll() is None)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=60)
        print(log_path.read_text(encoding="utf-8", errors="replace")[-5000:])


def snapshot(server: Server) -> dict[str, Any]:
    """What `apply` records of the models that move: metadata and configuration, as Triton's HTTP gives them."""
    paths = {"metadata": "", "config": "/config"}
    base = f"http://{server.http}/v2/models"
    return {
        model: {key: httpx.get(f"{base}/{model}{path}", trust_env=False).json() for key, path in paths.items()}
        for model in _MOVED
    }


def wait_for(require: Callable[[], None], is_running: Callable[[], bool] = lambda: True) -> None:
    """Wait until `require` raises NotServing no more; gives up after 5 minutes, or when the server has ended."""
    deadline = time.monotonic() + _START_S
    while True:
        try:
            return require()
        except NotServing:
            if time.monotonic() > deadline or not is_running():
                raise
        time.sleep(0.5)


def require_vllm(address: str) -> None:
    """Raise NotServing unless vLLM answers at HOST:PORT."""
    _require(address, "/health", "vLLM")


def _require(address: str, path: str, name: str) -> None:
    connection = HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        raise NotServing(f"{name} at {address}: {error!r}") from None
    finally:
        connection.close()
    if status != 200:
        raise NotServing(f"{name} at {address} answers {status}")


def _configuration(
    http: int, grpc: int, vllm_address: str, recorded: dict[str, Any], passthrough: Server | None
) -> dict[str, Any]:
    models = {name: {"style": style, "upstream_model": "phi2", **recorded[name]} for name, style in _MOVED.items()}
    written: dict[str, Any] = {
        "listen": {"host": names.ADDRESS, "port": http},
        "grpc": {"host": names.ADDRESS, "port": grpc},
        "upstream": {"url": f"http://{vllm_address}"},
        "models": models,
        "drain": {"notice_s": 0},
    }
    if passthrough:
        written["passthrough"] = {"url": f"http://{passthrough.http}", "grpc": passthrough.grpc}
    return written


def _free_port() -> int:
    with socket.create_server((names.ADDRESS, 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


@contextmanager
def _container(engine: docker.DockerClient, image: names.ServerImage, options: dict[str, Any]) -> Iterator[Container]:
    """The lab's image, with its ports on this machine's loopback."""
    container = engine.containers.run(
        f"{names.PUSH_ADDRESS}/{image.repository}:{image.tag}",
        name=f"gwa-{image.recipe}-{os.getpid()}",
        ports={f"{port}/tcp": (names.ADDRESS, _free_port()) for port in _PORTS},
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 5},
        shm_size="256m",
        detach=True,
        **options,
    )
    try:
        container.reload()
        yield container
    finally:
        container.remove(force=True, v=True)


def _published(container: Container, port: int) -> str:
    return f"{names.ADDRESS}:{container.ports[f'{port}/tcp'][0]['HostPort']}"
