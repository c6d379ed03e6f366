"""Reads apt and dpkg: what is installed, what could be and from where, and what a transaction would do.

Every answer is apt's own, asked in the C locale. Package names are as dpkg's `binary:Package`, without the host's own
architecture.
"""

from __future__ import annotations

import fcntl
import fnmatch
import os
import re
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.migrate_host import Run

LOCKS = ("var/lib/dpkg/lock-frontend", "var/lib/dpkg/lock", "var/lib/apt/lists/lock", "var/cache/apt/archives/lock")
# needrestart would restart services of its own choice, Docker among them.
ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1", "LC_ALL": "C", "LANGUAGE": "C"}
_LIMITS = ("-y", "-q", "--no-install-recommends", "--allow-downgrades")
_KEEP_FILES = ("-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold")
# `struct flock` of fcntl(2) on 64-bit Linux: type, whence, start, length, pid.
_FLOCK = "hhqqi"
_WHOLE = ("installed", "not-installed", "config-files")
_TELLING = ("E:", "W:", "Err:", "Error!", "dpkg: error")
_CHANGE = re.compile(r"^(Inst|Remv|Purg) (\S+)(?: \[([^]]*)\])?(?: \((\S+))?")


class Refused(Exception):
    """A package or a source cannot be had as asked; the text says why and what to do. Nothing was changed."""


class Changed(Refused):
    """It failed half way; the text says what was put back."""


def looking(run: Run) -> Run:
    """The same, with apt's caches of what it parsed in memory alone: a look writes nothing on the host."""
    in_memory = ["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]

    def look(argv: list[str]) -> tuple[int, str, str]:
        return run([argv[0], *in_memory, *argv[1:]] if argv[0].startswith("apt-") else argv)

    return look


def message(error: Refused) -> str:
    """The text for the operator."""
    return str(error) if isinstance(error, Changed) else f"{error} Nothing was changed."


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that a source offers; `source` is that line as apt writes it, `release` its Release file's fields."""

    version: str
    source: str
    release: Mapping[str, str]

    def is_from(self, origin: str) -> bool:
        """Whether the origin is the source's label or origin, or the beginning of its address; an empty one is any."""
        named = origin in (self.release.get("l"), self.release.get("o"))
        return not origin or named or self.source.startswith(origin.rstrip("/"))


@dataclass(frozen=True, slots=True)
class Change:
    """What a transaction does to one package; None is absent."""

    name: str
    before: str | None
    after: str | None


def installed(run: Run, *, half_done: bool = False) -> dict[str, str]:
    """Installed packages -> version. With `half_done` also those that dpkg left in between, as `VERSION (STATE)`."""
    native = run(["dpkg", "--print-architecture"])[1].strip()
    rc, out, err = run(["dpkg-query", "-W", "-f", r"${binary:Package}\t${Version}\t${db:Status-Status}\n"])
    if rc not in (0, 1):
        raise Refused(f"dpkg-query fails: {reason(err)}. Repair dpkg's database, then go on.")
    rows = (line.split("\t") for line in out.splitlines())
    found = {name.removesuffix(f":{native}"): (version, state) for name, version, state in rows}
    whole = {name: version for name, (version, state) in found.items() if state == "installed"}
    others = {name: f"{v} ({state})" for name, (v, state) in found.items() if state not in _WHOLE} if half_done else {}
    return whole | others


def candidates(run: Run, names: Iterable[str]) -> dict[str, list[Candidate]]:
    """What the sources offer of each name, newest first; nothing for a name that none knows."""
    wanted = sorted(set(names))
    found: dict[str, list[Candidate]] = {name: [] for name in wanted}
    if not wanted:
        return found
    releases = _releases(run)
    for line in run(["apt-cache", "madison", *wanted])[1].splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) == 3 and fields[2].endswith("Packages") and fields[0] in found:
            found[fields[0]].append(Candidate(fields[1], fields[2], releases.get(fields[2], {})))
    return found


def knows(run: Run, origin: str) -> bool:
    """Whether one of apt's sources is of the origin."""
    return any(Candidate("", source, release).is_from(origin) for source, release in _releases(run).items())


def known_names(run: Run, prefix: str) -> list[str]:
    """Package names that the sources offer and that begin so."""
    return sorted(run(["apt-cache", "pkgnames", prefix])[1].split())


def held(run: Run) -> set[str]:
    """Packages on hold."""
    return set(run(["apt-mark", "showhold"])[1].split())


def automatic(run: Run) -> set[str]:
    """Packages that are there only because another needs them."""
    return set(run(["apt-mark", "showauto"])[1].split())


def refuse_broken(run: Run) -> None:
    """Raise Refused where an earlier installation was left half done."""
    told = run(["dpkg", "--audit"])[1].strip()
    if told:
        names = list(dict.fromkeys(re.findall(r"^ (\S+)", told, re.MULTILINE)))
        raise Refused(
            f"dpkg was interrupted earlier ({', '.join(names[:5]) or reason(told)}). "
            "Finish that first: sudo dpkg --configure -a && sudo apt-get install --fix-broken"
        )


def wait_for_locks(root: Path, limit_s: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait until no other apt or dpkg runs. Raises Refused with its process after `limit_s` seconds."""
    deadline = time.monotonic() + limit_s
    while (found := _holder(root)) is not None:
        if time.monotonic() >= deadline:
            name = _text(root / f"proc/{found[1]}/comm").strip() or "another apt"
            raise Refused(
                f"{name} (process {found[1]}) has held /{found[0]} for {limit_s:g} s. "
                "Wait for it to end (unattended upgrades: systemctl status apt-daily-upgrade), then go on."
            )
        sleep(min(1.0, limit_s))


def simulate(run: Run, arguments: list[str]) -> list[Change]:
    """What `apt-get install ARGUMENTS` would do. Raises Refused with apt's reason where it cannot."""
    rc, out, err = run(["apt-get", "install", "--simulate", "--allow-change-held-packages", *_LIMITS, *arguments])
    if rc != 0:
        raise Refused(f"apt finds no way to install {' '.join(arguments)}: {_unmet(out)}{reason(err)}.")
    found: dict[str, Change] = {}
    for kind, name, before, after in (match.groups() for match in map(_CHANGE.match, out.splitlines()) if match):
        old = found[name].before if name in found else before
        found[name] = Change(name, old, after if kind == "Inst" else None)
    return [change for change in found.values() if change.before != change.after]


def install(run: Run, arguments: list[str], *, lock_timeout_s: float, download_only: bool = False) -> None:
    """`apt-get install ARGUMENTS`. Raises Refused with apt's reason."""
    options = [*_LIMITS, *_KEEP_FILES, "-o", f"DPkg::Lock::Timeout={int(lock_timeout_s)}"]
    rc, out, err = run(["apt-get", "install", *options, *(["--download-only"] if download_only else []), *arguments])
    if rc != 0:
        raise Refused(f"apt-get install ended with {rc}: {_unmet(out)}{reason(out + err)}.")


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a package's name, without architecture, fits one of the shell patterns."""
    return any(fnmatch.fnmatchcase(name.partition(":")[0], pattern) for pattern in patterns)


def _releases(run: Run) -> dict[str, dict[str, str]]:
    """Source line -> fields of its Release file, out of `apt-cache policy`."""
    found: dict[str, dict[str, str]] = {}
    source = ""
    for line in run(["apt-cache", "policy"])[1].splitlines():
        if match := re.match(r"^ *-?\d+ (\S.*)$", line):
            source = match[1].strip()
        elif source and (match := re.match(r"^ +release (.*)$", line)):
            found[source] = dict(re.findall(r"(?:^|,)(\w)=([^,]*)", match[1]))
    return found


def _holder(root: Path) -> tuple[str, int] | None:
    """Lock file and process of whoever holds one of apt's locks."""
    for lock in LOCKS:
        try:
            descriptor = os.open(root / lock, os.O_RDWR)
        except OSError:
            continue
        try:
            asked = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        finally:
            os.close(descriptor)
        kind, _, _, _, pid = struct.unpack(_FLOCK, asked)
        if kind != fcntl.F_UNLCK:
            return lock, pid
    return None


def _unmet(out: str) -> str:
    """apt's list of unmet dependencies, on one line."""
    _, _, told = out.partition("The following packages have unmet dependencies:\n")
    lines = [line.strip() for line in told.splitlines() if line.startswith(" ")]
    return "; ".join(lines[:5]) + "; " if lines else ""


def reason(text: str) -> str:
    """apt's errors and warnings, or the end of what it said."""
    lines = text.splitlines()
    told = [line for line in lines if line.startswith(_TELLING)] or lines[-3:]
    return " ".join(" ".join(told[:6]).split())[:500].rstrip(".")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
