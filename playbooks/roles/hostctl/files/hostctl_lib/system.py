"""Clock, paths, files and commands: everything `hostctl` touches the machine with."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from .errors import HostctlError


@dataclass(frozen=True)
class Paths:
    """Where things lie on a host. `root` is empty in production and a temporary directory in tests."""

    root: str = ""

    @classmethod
    def from_environment(cls) -> Paths:
        return cls(os.environ.get("MIGRATE_ROOT", ""))

    def at(self, absolute: str) -> Path:
        return Path(self.root + absolute)

    @property
    def state(self) -> Path:
        return self.at("/var/lib/migrate")

    @property
    def run(self) -> Path:
        return self.at("/run/migrate")

    @property
    def committed(self) -> Path:
        return self.at("/etc/migrate/committed")

    @property
    def units(self) -> Path:
        return self.at("/etc/systemd/system")

    def flags(self, scope: str) -> Path:
        return self.run / scope

    def config(self) -> dict[str, Any]:
        """What role `hostctl` wrote in host.json. Raises HostctlError where it is missing or is no JSON."""
        path = self.state / "host.json"
        try:
            return dict(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise HostctlError(f"{path}: {error}", "run the playbook hostctl.yml for this host") from error


def now() -> float:
    """Seconds since the epoch, UTC."""
    return time.time()


def iso(at: float) -> str:
    """`2026-11-21T11:00:00.123Z` for seconds since the epoch."""
    milliseconds = round(at * 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000)) + f".{milliseconds % 1000:03d}Z"


def parse_iso(text: str) -> float:
    """Seconds since the epoch for an ISO-8601 time with `Z` or an offset."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        raise HostctlError(f"{text} has no time zone", "write the time in UTC with a Z at its end")
    return moment.timestamp()


def write_atomic(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file as a whole: temporary file, fsync, rename, fsync of the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "w") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames, creations and removals in a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def exclusive(paths: Paths) -> Iterator[None]:
    """One `hostctl` at a time in here; the kernel lets go when the process dies."""
    paths.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(paths.state / ".guard", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def run(command: Sequence[str], *, stdin: str | None = None, timeout_s: float = 30, check: bool = True) -> str:
    """The standard output of a command. Raises HostctlError with its error text where it fails or takes too long."""
    try:
        done = subprocess.run(  # noqa: S603 - a list, never a shell
            command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostctlError(f"{command[0]}: {error}") from error
    if check and done.returncode != 0:
        raise HostctlError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout
