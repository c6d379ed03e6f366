"""How the lab's apt repositories are named, laid out for the build and removed, looked at without an engine."""

from __future__ import annotations

import subprocess
from pathlib import Path

from migrate import bundled
from migrate.lab import apt, apt_packages, names, rootfs

LAB = bundled.root() / "lab"
BASE = rootfs.RootFilesystem("images", "bookworm", ("python3",), None)


def test_key_follows_the_packages_and_the_base() -> None:
    packages = apt_packages.read(LAB)
    keys = {
        apt.key(LAB, BASE, packages),
        apt.key(LAB, BASE, packages[1:]),
        apt.key(LAB, rootfs.RootFilesystem("images", "trixie", (), None), packages),
    }
    assert len(keys) == 3
    assert apt.key(LAB, BASE, apt_packages.read(LAB)) in keys


def test_trees_are_what_the_build_reads(tmp_path: Path) -> None:
    packages = apt_packages.read(LAB)
    apt.write_trees(LAB, packages, tmp_path)
    described = [line.split("|") for line in (tmp_path / "repositories").read_text().splitlines()]
    assert ["cuda", "NVIDIA", "NVIDIA CUDA"] in described
    trees = [tree for name, _, _ in described for tree in (tmp_path / name).iterdir()]
    assert len(trees) == len(packages)
    assert all((tree / "DEBIAN" / "control").exists() for tree in trees)


def test_list_files_name_the_server() -> None:
    files = LAB / "apt" / "files"
    for name in ("cuda.list", "nvidia-container-toolkit.list"):
        assert f"http://{names.APT_ALIAS}:{names.APT_PORT}/" in (files / name).read_text()


def test_scripts_are_valid_for_sh() -> None:
    scripts = [LAB / "apt" / "build.sh", *(LAB / "apt" / "files").iterdir()]
    for script in scripts:
        if script.read_bytes().startswith(b"#!/bin/sh") or script.suffix in (".sh", ".postinst"):
            assert subprocess.run(["sh", "-n", script]).returncode == 0


def test_purge_removes_the_repositories_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "apt" / "key").mkdir(parents=True)
    (tmp_path / "rootfs").mkdir()
    apt.purge(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["rootfs"]
