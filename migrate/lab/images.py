"""The images: wheels into a shared layer, the shared layer into Triton's and vLLM's, and both into the registry."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import docker

from migrate.lab import cache as keep
from migrate.lab import command, names
from migrate.lab.errors import LabError
from migrate.lab.progress import Say, step
from migrate.lab.rootfs import RootFilesystem

PYTHON = "3.11"
DOWNLOAD_TIMEOUT_S = 1800
COMPLETE = "complete.json"
SHARED = "inference"
RECIPES = ("inference.sh", "tritonserver.sh", "tritonserver-entrypoint", "vllm-openai.sh", "vllm")


def inference_key(lab: Path, base: RootFilesystem) -> str:
    """The content hash of the layer that Triton, vLLM and the training share."""
    return keep.content_hash(base.key, lab / "requirements" / "inference.txt", lab / "images" / "inference.sh")


def servers_key(lab: Path, base: RootFilesystem) -> str:
    """The content hash of the registry's images."""
    changes = "\n".join(line for image in names.SERVER_IMAGES for line in image.changes)
    recipes = (lab / "images" / name for name in RECIPES)
    return keep.content_hash(base.key, lab / "requirements", changes, *recipes)


def registry_storage(cache: Path, key: str) -> Path:
    """Where the registry keeps the blobs of the images with this content."""
    return cache / "registry" / key


def digests(storage: Path) -> dict[str, str] | None:
    """Digest by repository, or None unless every image was pushed."""
    marker = storage / COMPLETE
    return dict(json.loads(marker.read_text())) if marker.exists() else None


def wheelhouse(lab: Path, cache: Path, say: Say) -> Path:
    """A directory with every wheel that the images need, downloaded unless it is in the cache."""
    requirements = lab / "requirements"
    files = sorted(requirements.glob("*.txt"))

    def download(path: Path) -> None:
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        argv += ["--only-binary=:all:", "--python-version", PYTHON, "--dest", str(path)]
        for file in files:
            argv += ["--requirement", str(file)]
        with step(say, "downloading wheels (torch, transformers, vLLM, Triton)"):
            command.run(argv, timeout_s=DOWNLOAD_TIMEOUT_S, what="pip download")

    return keep.artifact(cache, f"wheels/{keep.content_hash(requirements)}", download)


def inference(client: docker.DockerClient, lab: Path, wheels: Path, base: RootFilesystem, say: Say) -> str:
    """The name of the shared image in this machine's engine, built unless it is there."""
    name = f"{names.IMAGE_PREFIX}{SHARED}:{inference_key(lab, base)}"
    if not client.images.list(name=name):
        with step(say, "building the layer that Triton and vLLM share"):
            _build(client, base.image, _binds(lab, wheels), name, (SHARED, (f"ENV PATH={names.PATH}", "CMD []")))
    return name


def server(
    client: docker.DockerClient, shared: str, binds: Mapping[str, str], image: names.ServerImage, say: Say
) -> None:
    """Build one server's image on the shared one and tag it for the registry."""
    with step(say, f"building {image.repository}:{image.tag}"):
        name = f"{names.PUSH_ADDRESS}/{image.repository}:{image.tag}"
        _build(client, shared, binds, name, (image.recipe, image.changes))


def push(client: docker.DockerClient, image: names.ServerImage, say: Say) -> str:
    """Push one image into the registry; returns its digest."""
    digest = ""
    with step(say, f"pushing {image.repository}:{image.tag} into the lab's registry"):
        repository = f"{names.PUSH_ADDRESS}/{image.repository}"
        for line in client.api.push(repository, tag=image.tag, stream=True, decode=True):
            if "error" in line:
                raise LabError(f"pushing {image.repository} failed: {line['error']}")
            digest = line.get("aux", {}).get("Digest", digest)
    return digest


def server_binds(lab: Path, wheels: Path) -> dict[str, str]:
    """What a build sees of this machine: the wheels and the recipes, read-only."""
    return _binds(lab, wheels)


def mark_complete(storage: Path, pushed: Mapping[str, str]) -> None:
    """Record that the storage holds every image."""
    temporary = storage / f".{COMPLETE}"
    temporary.write_text(json.dumps(dict(pushed), indent=2) + "\n")
    temporary.rename(storage / COMPLETE)


def _binds(lab: Path, wheels: Path) -> dict[str, str]:
    return {str(wheels): "/wheels", str(lab): "/lab"}


def _build(
    client: docker.DockerClient, parent: str, binds: Mapping[str, str], name: str, recipe: tuple[str, tuple[str, ...]]
) -> None:
    script, changes = recipe
    labels = {names.LABEL: names.LABEL_VALUE}
    volumes = {source: {"bind": target, "mode": "ro"} for source, target in binds.items()}
    argv = ["sh", f"/lab/images/{script}.sh"]
    container = client.containers.run(parent, argv, volumes=volumes, labels=labels, network_mode="none", detach=True)
    try:
        if container.wait()["StatusCode"]:
            raise LabError(f"building {name} failed:\n{command.tail(container.logs())}")
        repository, tag = name.rsplit(":", 1)
        container.commit(repository, tag, changes=list(changes))
    finally:
        container.remove(force=True)
