"""Makes the parts that are missing, those in parallel that do not need each other."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import docker

from migrate.lab import cache as keep
from migrate.lab import images, model, names, registry, rootfs
from migrate.lab.progress import Say


@dataclass(frozen=True, slots=True)
class Recipe:
    """The lab's sources, and the content hashes that name what is made from them."""

    lab: Path
    cache: Path
    base: rootfs.RootFilesystem
    host: rootfs.RootFilesystem
    servers_key: str
    model_key: str

    @property
    def model(self) -> Path:
        """Where the trained weights are kept."""
        return model.place(self.cache, self.model_key)

    @property
    def storage(self) -> Path:
        """Where the registry keeps its blobs."""
        return images.registry_storage(self.cache, self.servers_key)

    def host_content(self, secrets_fingerprint: str) -> str:
        """The content of gpu01: any difference means that it is made anew."""
        parts = (self.lab / "host", self.lab / "triton")
        return keep.content_hash(self.host.key, self.servers_key, self.model_key, secrets_fingerprint, *parts)


def read(lab: Path, cache: Path) -> Recipe:
    """The recipe as the files below `lab` have it now; raises LabError when one is missing."""
    base, host = rootfs.read(lab, "images"), rootfs.read(lab, "host")
    model_key = model.key(lab, images.inference_key(lab, base))
    return Recipe(lab, cache, base, host, images.servers_key(lab, base), model_key)


def everything(client: docker.DockerClient, recipe: Recipe, say: Say) -> str:
    """Make what is missing and run the registry; returns the image of gpu01."""
    registry.ensure_network(client)
    with ThreadPoolExecutor(max_workers=4) as pool:
        host_image = pool.submit(rootfs.image, client, recipe.host, recipe.cache, say)
        wheels = pool.submit(images.wheelhouse, recipe.lab, recipe.cache, say) if _must_build(recipe) else None
        base = rootfs.image(client, recipe.base, recipe.cache, say)
        if not registry.is_serving(client, recipe.servers_key):
            registry.start(client, base, recipe.lab, recipe.storage, recipe.servers_key)
        if wheels is not None:
            _build(client, recipe, wheels, pool, say)
        return host_image.result()


def _must_build(recipe: Recipe) -> bool:
    return images.digests(recipe.storage) is None or not recipe.model.exists()


def _build(
    client: docker.DockerClient, recipe: Recipe, wheels: Future[Path], pool: ThreadPoolExecutor, say: Say
) -> None:
    shared = images.inference(client, recipe.lab, wheels.result(), recipe.base, say)
    trained = pool.submit(model.train, client, recipe.lab, shared, recipe.model, say)
    if images.digests(recipe.storage) is None:
        pushed = {}
        binds = images.server_binds(recipe.lab, wheels.result())
        for image in names.SERVER_IMAGES:
            images.server(client, shared, binds, image, say)
            pushed[image.repository] = images.push(client, image, say)
        images.mark_complete(recipe.storage, pushed)
    trained.result()
