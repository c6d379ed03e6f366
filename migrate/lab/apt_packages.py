"""The packages of the lab's apt repositories, worked out from lab/apt/packages.yml: pure, so that a test can look in.

for package in read(root / "lab"):
    print(package.file_name, package.control)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from migrate.lab.elf import version_library
from migrate.lab.errors import LabError

STAND_IN = "A stand-in of the lab for the package of this name: no driver, no library, no compiler is in it."
MAINTAINER = "migrate lab <lab@migrate.invalid>"
# Debian policy 5.6.1.
NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
KNOWN = {"name", "version", "architecture", "summary", "depends", "exclusive", "files", "links", "scripts", "fields"}


@dataclass(frozen=True, slots=True)
class PackageFile:
    """One file of a package, or a symbolic link where `link` is its target."""

    path: str
    content: bytes = b""
    mode: int = 0o644
    link: str = ""


@dataclass(frozen=True, slots=True)
class Package:
    """A binary package: `control` is its control file, `scripts` are its maintainer scripts by name."""

    repository: str
    name: str
    version: str
    architecture: str
    control: str
    files: tuple[PackageFile, ...]
    scripts: tuple[PackageFile, ...]

    @property
    def file_name(self) -> str:
        """As in a pool: name_version_architecture.deb."""
        return f"{self.name}_{self.version}_{self.architecture}.deb"


@dataclass(frozen=True, slots=True)
class Repository:
    """What a Release file says about where its packages come from."""

    name: str
    origin: str
    label: str


def read(lab: Path, kernel: str = os.uname().release) -> tuple[Package, ...]:
    """Every package of every repository, in the order of packages.yml, with driver modules for one kernel release.

    Raises LabError where that file is wrong.
    """
    groups = [group for group in _data(lab)["groups"] if NAME.fullmatch(kernel) or not group.get("of_kernel")]
    return tuple(package for group in groups for package in _group(lab, group, kernel))


def repositories(lab: Path) -> tuple[Repository, ...]:
    """The repositories; each is a directory of the server."""
    found = _data(lab)["repositories"]
    return tuple(Repository(name, entry["origin"], entry["label"]) for name, entry in found.items())


def _data(lab: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((lab / "apt" / "packages.yml").read_text(encoding="utf-8")))


def _group(lab: Path, group: Mapping[str, Any], kernel: str) -> Iterator[Package]:
    for row in group.get("for", [{}]):
        for entry in group["packages"]:
            unknown = set(entry) - KNOWN
            if unknown:
                raise LabError(
                    f"lab/apt/packages.yml: {entry['name']} has {', '.join(sorted(unknown))}, which is unknown"
                )
            yield _package(lab, group["repository"], entry, {"kernel": kernel, **row, **entry.get("fields", {})})


def _package(lab: Path, repository: str, entry: Mapping[str, Any], row: Mapping[str, str]) -> Package:
    version = str(entry.get("version") or row["version"]).format(**row)
    words = {**row, "version": version, "upstream": version.rpartition("-")[0] or version}
    name, architecture = entry["name"].format(**words), entry.get("architecture", "amd64")
    files = [_file(lab, path.format(**words), what, words) for path, what in entry.get("files", {}).items()]
    files += [PackageFile(path, link=target) for path, target in entry.get("links", {}).items()]
    note = f"{name} {version}\n{STAND_IN}\n".encode()
    scripts = [_script(lab, script, what, words) for script, what in entry.get("scripts", {}).items()]
    return Package(
        repository,
        name,
        version,
        architecture,
        _control(name, version, architecture, entry, words),
        (*files, PackageFile(f"/usr/share/nvidia-stand-in/packages/{name}", note)),
        (*scripts, *_conffiles(files)),
    )


def _file(lab: Path, path: str, what: Mapping[str, Any], words: Mapping[str, str]) -> PackageFile:
    mode = what.get("mode", 0o644)
    if "from" in what:
        return PackageFile(path, _source(lab, what["from"]).read_bytes(), mode)
    if "version_function" in what:
        number = int(what["number"].format(**words))
        return PackageFile(path, version_library(Path(path).name, what["version_function"], number), mode)
    text = what["text"] if "text" in what else _source(lab, what["template"]).read_text(encoding="utf-8")
    return PackageFile(path, text.format(**words).encode(), mode)


def _source(lab: Path, name: str) -> Path:
    return lab / "apt" / "files" / name


def _script(lab: Path, name: str, what: Mapping[str, Any], words: Mapping[str, str]) -> PackageFile:
    body = _file(lab, name, what, words)
    return PackageFile(name, b"#!/bin/sh\nset -e\n" + body.content, 0o755)


def _conffiles(files: list[PackageFile]) -> list[PackageFile]:
    configured = "".join(f"{file.path}\n" for file in files if file.path.startswith("/etc/"))
    return [PackageFile("conffiles", configured.encode())] if configured else []


def _control(name: str, version: str, architecture: str, entry: Mapping[str, Any], words: Mapping[str, str]) -> str:
    fields = {
        "Package": name,
        "Version": version,
        "Architecture": architecture,
        "Maintainer": MAINTAINER,
        "Section": "non-free/misc",
        "Priority": "optional",
        "Depends": ", ".join(entry.get("depends", [])).format(**words),
        **dict.fromkeys(("Provides", "Conflicts", "Replaces"), entry.get("exclusive", "")),
        "Description": f"{entry['summary'].format(**words)} (stand-in)\n {STAND_IN}",
    }
    return "".join(f"{field}: {value}\n" for field, value in fields.items() if value)
