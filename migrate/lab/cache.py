"""What the lab keeps between runs, each thing under the hash of everything it was made from.

A thing is made beside its place and renamed, so that what has its name is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from migrate.lab.errors import LabError

VARIABLE = "MIGRATE_LAB_CACHE"
KEPT = ("rootfs", "wheels", "model", "registry")


def location(environment: dict[str, str]) -> Path:
    """The cache directory: $MIGRATE_LAB_CACHE, else ~/.cache/migrate-lab."""
    named = environment.get(VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "migrate-lab"


def content_hash(*parts: str | Path) -> str:
    """16 hex digits over texts, files and directories, in order; a directory counts by its files' names and contents.

    Raises LabError for a path that does not exist.
    """
    digest = hashlib.sha256()
    for part in parts:
        for name, content in _pieces(part):
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def _pieces(part: str | Path) -> Iterator[tuple[str, bytes]]:
    if isinstance(part, str):
        yield "", part.encode()
    elif part.is_file():
        yield part.name, part.read_bytes()
    elif part.is_dir():
        for file in sorted(path for path in part.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
            yield str(file.relative_to(part)), file.read_bytes()
    else:
        raise LabError(f"the lab's file {part} is missing")


def artifact(cache: Path, name: str, make: Callable[[Path], None]) -> Path:
    """The path `cache/name`, made by `make(temporary_path)` unless it is there."""
    path = cache / name
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=path.parent) as scratch:
        made = Path(scratch) / "made"
        make(made)
        made.rename(path)
    return path


@contextmanager
def only_one(cache: Path) -> Iterator[None]:
    """Hold the cache's lock; raises LabError when another `lab up` or `lab down` holds it."""
    cache.mkdir(parents=True, exist_ok=True)
    handle = os.open(cache / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise LabError("another `migrate lab` is at work", advice="wait for it, then type the same again") from None
    finally:
        os.close(handle)


def purge(cache: Path) -> None:
    """Remove everything that the lab keeps, and the directory if nothing else lies in it."""
    for name in KEPT:
        shutil.rmtree(cache / name, ignore_errors=True)
    for name in ("lock", "dockerd.log"):
        (cache / name).unlink(missing_ok=True)
    if cache.is_dir() and not any(cache.iterdir()):
        cache.rmdir()
