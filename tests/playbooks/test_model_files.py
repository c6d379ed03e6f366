"""Folders of model files: proved by sha256 on the way there, and only vouched-for files go."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def files(library: Callable[[str], ModuleType]) -> ModuleType:
    return library("model_files")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text("name: 'phi2'\n")
    (folder / "1" / "model.bin").write_bytes(b"\0" * 5000)
    return folder


def _copy(files: ModuleType, source: Path) -> tuple[Path, Path]:
    path, listed = source.with_name("copy"), source.with_name("copy.sha256")
    shutil.copytree(source, path)
    listed.write_text("".join(f"{digest}  {name}\n" for name, digest in files.manifest(source).items()))
    return path, listed


def test_only_what_the_manifest_vouches_for_is_removed(files: ModuleType, source: Path) -> None:
    path, listed = _copy(files, source)
    (path / "notes.txt").write_text("the operator's")
    (path / "config.pbtxt").write_text("changed since\n")
    (path / "1" / "__pycache__").mkdir()
    (path / "1" / "__pycache__" / "model.pyc").touch()
    removed, kept = files.remove(path, listed)
    assert removed == [str(path / "1" / "model.bin")]
    assert kept == [str(path / "config.pbtxt"), str(path / "notes.txt")]
    assert sorted(child.name for child in path.iterdir()) == ["config.pbtxt", "notes.txt"]
    assert files.remove(path, listed) == ([], kept)


def test_nothing_is_removed_without_a_manifest(files: ModuleType, source: Path) -> None:
    removed, kept = files.remove(source, source.with_name("none"))
    assert (removed, len(kept)) == ([], 2)


def test_restored_from_the_archive_and_proved(files: ModuleType, source: Path) -> None:
    path, listed = _copy(files, source)
    archive = source.with_name("models.tar")
    with tarfile.open(archive, "w") as tar:
        tar.add(source, arcname=".")
    files.remove(path, listed)
    assert not path.exists()
    assert files.restore(archive, path, listed)
    assert not files.restore(archive, path, listed)
    (path / "config.pbtxt").write_text("edited since\n")
    with pytest.raises(files.WrongFiles, match=r"config\.pbtxt was changed since the snapshot"):
        files.restore(archive, path, listed)
    assert (path / "config.pbtxt").read_text() == "edited since\n"


def test_an_archive_that_lacks_a_file_is_found_out(files: ModuleType, source: Path) -> None:
    path, listed = _copy(files, source)
    archive = source.with_name("models.tar")
    with tarfile.open(archive, "w") as tar:
        tar.add(source / "config.pbtxt", arcname="config.pbtxt")
    files.remove(path, listed)
    with pytest.raises(files.WrongFiles, match="1/model.bin"):
        files.restore(archive, path, listed)
