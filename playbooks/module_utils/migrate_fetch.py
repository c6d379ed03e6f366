"""Fetches the files of a hub's commit: goes on where a cut left off, and proves every file by the hub's own hash."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from ansible.module_utils.migrate_hub import Hub, HubError, RemoteFile

AT_ONCE = 4
ATTEMPTS = 8
_BLOCK = 1 << 20
_LONGEST_WAIT_S = 30.0
_WINDOW_S = 10.0
_ROOM = 64 << 20


class WrongWeights(Exception):
    """The weights are not those of the plan, or there is no room for them; the text names what and where."""


class Progress:
    """Counts bytes and tells them in a file, at most once a second: done, total, bytes a second, seconds left."""

    def __init__(self, path: Path, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._total, self._clock = path, total, clock
        self._done, self._lock = 0, Lock()
        self._seen = [(clock(), 0)]

    def add(self, count: int, *, kept: bool = False) -> None:
        """Count bytes; `kept` are those of an earlier run, which say nothing of the rate."""
        with self._lock:
            self._done += count
            now = self._clock()
            if kept:
                self._seen = [(at, done + count) for at, done in self._seen]
            if kept or now - self._seen[-1][0] >= 1 or self._done >= self._total:
                self._seen = [(at, done) for at, done in self._seen if now - at <= _WINDOW_S] or self._seen[-1:]
                self._seen.append((now, self._done))
                self._tell()

    def _tell(self) -> None:
        (begin, first), (end, last) = self._seen[0], self._seen[-1]
        rate = (last - first) / (end - begin) if end > begin else 0.0
        left = (self._total - self._done) / rate if rate else None
        told = {"done": self._done, "total": self._total, "rate": round(rate), "left_s": left and round(left)}
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(told))
        fresh.replace(self._path)


def line(told: Mapping[str, Any]) -> str:
    """What a progress file holds, for a person: `1.2 of 5.6 GB, 84.0 MB/s, 52 s left`."""
    left = told.get("left_s")
    ends = "" if left is None else f", {left} s left" if left < 120 else f", {left // 60} min left"
    return f"{told['done'] / 1e9:.2f} of {told['total'] / 1e9:.2f} GB, {told['rate'] / 1e6:.1f} MB/s{ends}"


@dataclass(frozen=True)
class Folders:
    """Where files are put: whole and proved ones in `whole`, begun ones in `begun` by their content and name."""

    whole: Path
    begun: Path

    def make(self) -> None:
        """Make both, for root alone until they are in place."""
        for folder in (self.whole, self.begun):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def part(self, name: str, file: RemoteFile) -> Path:
        """Where a file grows: what was begun of another content is never gone on with, and no two share one."""
        return self.begun / f"{file.hash.replace(':', '-')}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait for a fetch of an earlier run that is still at work, and keep a later one waiting."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_held(path: Path) -> bool:
    """Whether a process works under this lock; one that ended, however that was, holds it no more."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def fetch(
    hub: Hub,
    commit: str,
    files: Mapping[str, RemoteFile],
    folders: Folders,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Bring every file into `folders.whole`. Raises HubError, or WrongWeights for content or room that is not there."""
    folders.make()
    progress = Progress(folders.begun / "progress.json", sum(file.size for file in files.values()))
    missing = {name: file for name, file in files.items() if not _is_whole(folders.whole / name, file, progress)}
    _require_room(missing, folders)
    # The largest first, so that no thread is left with it at the end.
    order = sorted(missing, key=lambda name: -missing[name].size)
    fetcher = _Fetcher(hub, commit, folders, progress, sleep)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = [pool.submit(fetcher.file, name, missing[name]) for name in order]
        try:
            for future in running:
                future.result()
        except BaseException:
            fetcher.stopped = True
            pool.shutdown(cancel_futures=True)
            raise


def hash_of(path: Path, kind: str) -> str:
    """`sha256:HEX` of a file, or `git:HEX`, what git calls its content (gitobjects: `blob SIZE NUL content`, sha1)."""
    digest = hashlib.sha256()
    if kind == "git":
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            digest.update(block)
    return f"{kind}:{digest.hexdigest()}"


def _is_whole(path: Path, file: RemoteFile, progress: Progress) -> bool:
    found = path.is_file() and path.stat().st_size == file.size and hash_of(path, file.hash.split(":")[0]) == file.hash
    if found:
        progress.add(file.size, kept=True)
    return found


def _require_room(missing: Mapping[str, RemoteFile], folders: Folders) -> None:
    parts = [folders.part(name, file) for name, file in missing.items()]
    begun = sum(part.stat().st_size for part in parts if part.is_file())
    needed = sum(file.size for file in missing.values()) - begun
    free = shutil.disk_usage(folders.begun).free
    if missing and free < needed + _ROOM:
        raise WrongWeights(
            f"{folders.begun.parent} has {free:,} bytes free, {needed + _ROOM:,} are needed; make room: df -h there"
        )


class _Fetcher:
    """Fetches single files; `stopped` ends all of them at their next block."""

    def __init__(
        self, hub: Hub, commit: str, folders: Folders, progress: Progress, sleep: Callable[[float], None]
    ) -> None:
        self._hub, self._commit, self._folders = hub, commit, folders
        self._progress, self._sleep = progress, sleep
        self.stopped = False

    def file(self, name: str, file: RemoteFile) -> None:
        """Fetch one file, prove it, and put it in place; what proves wrong is fetched once more from its first byte."""
        part = self._folders.part(name, file)
        self._progress.add(part.stat().st_size if part.is_file() else 0, kept=True)
        for _ in range(2):
            self._whole(name, file, part)
            found = hash_of(part, file.hash.split(":")[0])
            if found == file.hash:
                target = self._folders.whole / name
                target.parent.mkdir(parents=True, exist_ok=True)
                part.replace(target)
                return
            self._progress.add(-part.stat().st_size, kept=True)
            part.unlink()
        raise WrongWeights(f"{name} of {self._hub.repository} is {found}, {self._hub.host} says {file.hash}")

    def _whole(self, name: str, file: RemoteFile, part: Path) -> None:
        """Go on until all bytes are there; gives up after so many attempts that brought none."""
        failed = 0
        while (have := part.stat().st_size if part.is_file() else 0) < file.size or not part.is_file():
            try:
                self._more(name, part, have, file.size)
                problem = f"{self._hub.host} broke off {name} at byte {part.stat().st_size:,} of {file.size:,}"
            except HubError as error:
                if not error.passing:
                    raise
                problem = str(error)
            now = part.stat().st_size if part.is_file() else 0
            if now >= file.size:
                break
            failed = 0 if now > have else failed + 1
            if failed >= ATTEMPTS:
                raise HubError(f"{problem}; what was fetched is kept: migrate continue", silent=True)
            self._sleep(min(2.0**failed, _LONGEST_WAIT_S))

    def _more(self, name: str, part: Path, have: int, size: int) -> None:
        """Append what one connection brings, from byte `have` on, or from the first where parts are not given.

        Of what is longer than the hub's listing says no more is taken than proves it wrong.
        """
        with self._hub.open(self._hub.url(self._commit, name), have) as answer:
            is_part = answer.status == http.client.PARTIAL_CONTENT
            if have and not is_part:
                self._progress.add(-have, kept=True)
            with part.open("ab" if is_part else "wb") as out:
                for block in _blocks(answer):
                    if self.stopped:
                        raise WrongWeights("stopped")
                    if out.tell() > size:
                        break
                    out.write(block)
                    self._progress.add(len(block))
                out.flush()
                os.fsync(out.fileno())


def _blocks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """What arrives until the end or the cut."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        while block := answer.read1(_BLOCK):
            yield block
