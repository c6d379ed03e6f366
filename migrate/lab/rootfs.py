"""The two root filesystems, from Debian packages: one for the images, one for gpu01; each a tar file in the cache."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import docker
import yaml

from migrate.lab import cache as keep
from migrate.lab import command, names
from migrate.lab.errors import LabError
from migrate.lab.progress import Say, step

DEBOOTSTRAP_TIMEOUT_S = 1200
UNNEEDED = ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")


@dataclass(frozen=True, slots=True)
class RootFilesystem:
    """A Debian suite, its packages, and a script that runs inside it once (or None)."""

    name: str
    suite: str
    packages: tuple[str, ...]
    script: Path | None

    @property
    def key(self) -> str:
        """The content hash of everything that it is made from."""
        script = self.script.read_text() if self.script else ""
        return keep.content_hash(self.suite, *self.packages, script, *UNNEEDED)

    @property
    def image(self) -> str:
        """The name of the image in this machine's engine."""
        return f"{names.IMAGE_PREFIX}{self.name}:{self.key}"


def read(lab: Path, name: str) -> RootFilesystem:
    """The root filesystem `name` of lab/images/packages.yml."""
    images = lab / "images"
    entries = yaml.safe_load((images / "packages.yml").read_text())
    if name not in entries:
        raise LabError(f"lab/images/packages.yml has no entry {name}; it has {', '.join(entries)}")
    entry = entries[name]
    script = images / f"{name}.sh"
    return RootFilesystem(name, entry["suite"], tuple(entry["packages"]), script if script.exists() else None)


def archive(wanted: RootFilesystem, cache: Path, say: Say) -> Path:
    """The tar file of `wanted`, made by debootstrap unless it is in the cache."""
    return keep.artifact(cache, f"rootfs/{wanted.name}-{wanted.key}.tar", lambda path: _make(wanted, path, say))


def image(client: docker.DockerClient, wanted: RootFilesystem, cache: Path, say: Say) -> str:
    """The name of an image in this machine's engine that holds `wanted`."""
    tar = archive(wanted, cache, say)
    if not client.images.list(name=wanted.image):
        with step(say, f"importing the root filesystem of {wanted.name}"):
            repository, tag = wanted.image.split(":")
            label = f"LABEL {names.LABEL}={names.LABEL_VALUE}"
            client.api.import_image_from_file(str(tar), repository=repository, tag=tag, changes=[label])
    return wanted.image


def _make(wanted: RootFilesystem, path: Path, say: Say) -> None:
    title = f"building the root filesystem of {wanted.name} (Debian {wanted.suite})"
    with step(say, title), tempfile.TemporaryDirectory(prefix=".rootfs-", dir=path.parent) as scratch:
        root = Path(scratch) / "root"
        include = f"--include={','.join(wanted.packages)}"
        argv = ["debootstrap", "--variant=minbase", include, wanted.suite, str(root)]
        command.run(argv, timeout_s=DEBOOTSTRAP_TIMEOUT_S)
        if wanted.script:
            command.run(["chroot", str(root), "sh", "-s"], stdin=wanted.script.read_bytes(), timeout_s=300)
        for directory in UNNEEDED:
            shutil.rmtree(root / directory, ignore_errors=True)
        for binary in (root / "var/cache/apt").glob("*.bin"):
            binary.unlink()
        command.run(["tar", "-C", str(root), "-cf", str(path), "."], timeout_s=300)
