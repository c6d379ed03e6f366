"""Real apt and dpkg in a folder of their own: small signed repositories, and a root whose packages they are."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

NEEDED = ("apt-get", "apt-cache", "dpkg", "dpkg-deb", "gpg")
_FOLDERS = (
    *("etc/apt/sources.list.d", "etc/apt/preferences.d", "etc/apt/apt.conf.d", "etc/apt/trusted.gpg.d", "boot", "tmp"),
    *("var/lib/dpkg/updates", "var/lib/dpkg/info", "var/lib/dpkg/parts", "var/lib/apt/lists/partial", "var/log/apt"),
    *("var/cache/apt/archives/partial", "usr/share/keyrings", "usr/lib", "usr/bin"),
)
_CONFIG = """\
Dir "{root}/";
Dir::State::status "{root}/var/lib/dpkg/status";
Dir::Bin::methods "/usr/lib/apt/methods";
Dir::Bin::dpkg "/usr/bin/dpkg";
Dir::Log "{root}/var/log/apt";
APT::Architecture "amd64";
APT::Sandbox::User "root";
Acquire::Languages "none";
"""


def is_possible() -> bool:
    """Whether this machine has what the tests need."""
    return all(map(shutil.which, NEEDED)) and os.geteuid() == 0


@dataclass(frozen=True, slots=True)
class Deb:
    """A package to build: `fields` go into its control file, `files` map an absolute path to a text."""

    name: str
    version: str
    fields: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    scripts: Mapping[str, str] = field(default_factory=dict)


class AptRoot:
    """A root file system with dpkg's and apt's state, and the repositories beside it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.repositories, self.gnupg = folder / "root", folder / "repositories", folder / "gnupg"
        for name in _FOLDERS:
            (self.root / name).mkdir(parents=True)
        (self.root / "var/lib/dpkg/status").touch()
        (self.root / "var/lib/dpkg/available").touch()
        self.gnupg.mkdir(mode=0o700)
        config = folder / "apt.conf"
        config.write_text(_CONFIG.format(root=self.root))
        self.environment = os.environ | {
            "APT_CONFIG": str(config),
            "DPKG_ROOT": str(self.root),
            "DPKG_FORCE": "downgrade,not-root,script-chrootless,security-mac",
            "DEBIAN_FRONTEND": "noninteractive",
            "LC_ALL": "C",
            "GNUPGHOME": str(self.gnupg),
        }

    def run(self, argv: list[str]) -> tuple[int, str, str]:
        """Run a command there, as a module does."""
        try:
            done = subprocess.run(argv, capture_output=True, text=True, env=self.environment, timeout=120, check=False)
        except FileNotFoundError as error:
            return 127, "", str(error)
        return done.returncode, done.stdout, done.stderr

    def close(self) -> None:
        """End gpg's agent."""
        self.must("gpgconf", "--kill", "gpg-agent")

    def must(self, *argv: str) -> str:
        """Run a command there that has to succeed."""
        rc, out, err = self.run(list(argv))
        assert rc == 0, f"{argv}: {out}{err}"
        return out

    def versions(self) -> dict[str, str]:
        """Installed packages -> version."""
        rows = self.must("dpkg-query", "-W", "-f", r"${Package} ${Version} ${db:Status-Status}\n").splitlines()
        return {name: version for name, version, status in map(str.split, rows) if status == "installed"}

    def key(self, name: str) -> Path:
        """A signing key and its public half, ASCII-armoured."""
        public = self.gnupg / f"{name}.asc"
        if not public.exists():
            expiry = ("default", "default", "never")
            self.must("gpg", "--batch", "--passphrase", "", "--quick-generate-key", f"{name} <{name}@test>", *expiry)
            public.write_text(self.must("gpg", "--armor", "--export", f"{name}@test"))
        return public

    def repository(self, name: str, debs: list[Deb], *, label: str, origin: str = "NVIDIA", key: str = "lab") -> str:
        """Build the packages and a flat repository of them, signed; returns its address."""
        folder = self.repositories / name
        folder.mkdir(parents=True, exist_ok=True)
        index = "".join(_stanza(self.build(deb, folder)) for deb in debs)
        (folder / "Packages").write_text(index)
        release = f"Origin: {origin}\nLabel: {label}\nDate: Sat, 21 Nov 2026 10:00:00 UTC\nSHA256:\n"
        digest = hashlib.sha256(index.encode()).hexdigest()
        (folder / "Release").write_text(f"{release} {digest} {len(index)} Packages\n")
        self.key(key)
        signed = ("--clearsign", "-o", str(folder / "InRelease"), str(folder / "Release"))
        self.must("gpg", "--batch", "--yes", "--local-user", f"{key}@test", *signed)
        return f"file:{folder}"

    def build(self, deb: Deb, folder: Path) -> Path:
        """The .deb file of a package."""
        tree = folder / f".{deb.name}"
        (tree / "DEBIAN").mkdir(parents=True)
        control = {"Package": deb.name, "Version": deb.version, "Architecture": "amd64", "Maintainer": "test <t@test>"}
        lines = {**control, "Description": "a package of the tests", **deb.fields}
        (tree / "DEBIAN/control").write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
        for name, text in deb.scripts.items():
            (tree / "DEBIAN" / name).write_text(f"#!/bin/sh\n{text}\n")
            (tree / "DEBIAN" / name).chmod(0o755)
        for name, text in deb.files.items():
            path = tree / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        file = folder / f"{deb.name}_{deb.version}_amd64.deb"
        self.must("dpkg-deb", "--build", "--root-owner-group", "-Znone", str(tree), str(file))
        shutil.rmtree(tree)
        return file

    def know(self, address: str, *, name: str = "lab", key: str = "lab", suite: str = "./") -> None:
        """Add a repository by hand, as an operator does, and read it."""
        keyring = self.root / f"usr/share/keyrings/{key}.asc"
        shutil.copy(self.key(key), keyring)
        (self.root / f"etc/apt/sources.list.d/{name}.list").write_text(f"deb [signed-by={keyring}] {address} {suite}\n")
        self.must("apt-get", "update")

    def install(self, *arguments: str) -> None:
        """What was there before."""
        self.must("apt-get", "install", "-y", "--allow-downgrades", *arguments)


def _stanza(file: Path) -> str:
    content = file.read_bytes()
    told = subprocess.run(["dpkg-deb", "--field", str(file)], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256(content).hexdigest()
    return f"{told.rstrip()}\nFilename: ./{file.name}\nSize: {len(content)}\nSHA256: {digest}\n\n"
