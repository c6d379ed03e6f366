"""The lab's apt repositories: built and signed once, kept in the cache, served by a container named apt.lab.

ensure(client, root / "lab", cache, base, say)
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import docker
import httpx

from migrate.lab import apt_packages, command, names, registry
from migrate.lab import cache as keep
from migrate.lab.errors import LabError
from migrate.lab.progress import Say, step
from migrate.lab.rootfs import RootFilesystem

START_S = 30
KEPT = "apt"
SERVED = "/srv/apt"


def ensure(client: docker.DockerClient, lab: Path, cache: Path, base: RootFilesystem, say: Say) -> None:
    """Build the repositories unless they are in the cache, and serve them unless that is done already.

    `base` must be an image of this engine. Raises LabError.
    """
    packages = apt_packages.read(lab)
    content = key(lab, base, packages)
    if _is_serving(client, content):
        return

    def make(path: Path) -> None:
        title = f"building and signing the apt repositories ({len(packages)} stand-in packages)"
        with step(say, title), tempfile.TemporaryDirectory(prefix=".trees-", dir=path.parent) as trees:
            write_trees(lab, packages, Path(trees))
            path.mkdir()
            _build(client, base.image, {lab / "apt": "/lab", Path(trees): "/trees", path: "/repositories"})

    repositories = keep.artifact(cache, f"{KEPT}/{content}", make)
    _start(client, base, repositories, content)


def key(lab: Path, base: RootFilesystem, packages: tuple[apt_packages.Package, ...]) -> str:
    """The content hash of the repositories."""
    return keep.content_hash(base.key, lab / "apt", repr(packages))


def purge(cache: Path) -> None:
    """Remove what the cache keeps of the repositories."""
    shutil.rmtree(cache / KEPT, ignore_errors=True)


def write_trees(lab: Path, packages: tuple[apt_packages.Package, ...], trees: Path) -> None:
    """Lay every package below `trees` as dpkg-deb wants it, with what build.sh must know of the repositories."""
    for package in packages:
        tree = trees / package.repository / package.file_name.removesuffix(".deb")
        write_tree(package, tree)
    described = [f"{found.name}|{found.origin}|{found.label}\n" for found in apt_packages.repositories(lab)]
    (trees / "repositories").write_text("".join(described))
    shutil.copy(lab / "apt" / "files" / "nvidia-container-toolkit.list", trees)


def write_tree(package: apt_packages.Package, tree: Path) -> None:
    """Lay the files of one package below `tree`, its control files in DEBIAN."""
    control = apt_packages.PackageFile("control", package.control.encode())
    for file in (control, *package.scripts):
        _write(file, tree / "DEBIAN" / file.path)
    for file in package.files:
        _write(file, tree / file.path.lstrip("/"))
    for directory in (tree, *(path for path in tree.rglob("*") if path.is_dir())):
        directory.chmod(0o755)


def _write(file: apt_packages.PackageFile, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if file.link:
        path.symlink_to(file.link)
        return
    path.write_bytes(file.content)
    path.chmod(file.mode)


def _build(client: docker.DockerClient, image: str, binds: dict[Path, str]) -> None:
    container = client.containers.run(
        image,
        ["sh", "/lab/build.sh"],
        volumes={str(source): {"bind": target, "mode": "rw"} for source, target in binds.items()},
        labels={names.LABEL: names.LABEL_VALUE},
        detach=True,
    )
    try:
        if container.wait()["StatusCode"]:
            raise LabError(f"building the apt repositories failed:\n{command.tail(container.logs())}")
    finally:
        container.remove(force=True)


def _is_serving(client: docker.DockerClient, content: str) -> bool:
    container = registry.find(client, names.APT)
    return bool(container and container.status == "running" and container.labels.get(names.LABEL_CONTENT) == content)


def _start(client: docker.DockerClient, base: RootFilesystem, repositories: Path, content: str) -> None:
    old = registry.find(client, names.APT)
    if old is not None:
        old.remove(force=True)
    container = client.containers.create(
        base.image,
        ["python3", "-m", "http.server", str(names.APT_PORT), "--directory", SERVED],
        name=names.APT,
        hostname=names.APT_ALIAS,
        labels={names.LABEL: names.LABEL_VALUE, names.LABEL_CONTENT: content},
        volumes={str(repositories): {"bind": SERVED, "mode": "ro"}},
        ports={f"{names.APT_PORT}/tcp": (names.ADDRESS, names.APT_PORT)},
        restart_policy={"Name": "unless-stopped"},
    )
    client.networks.get(names.NETWORK).connect(container, aliases=[names.APT_ALIAS])
    container.start()
    _wait()


def _wait() -> None:
    deadline = time.monotonic() + START_S
    address = f"http://{names.ADDRESS}:{names.APT_PORT}/cuda/InRelease"
    while time.monotonic() < deadline:
        try:
            if httpx.get(address, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise LabError(f"the lab's apt repositories do not answer after {START_S} s", advice=f"docker logs {names.APT}")
