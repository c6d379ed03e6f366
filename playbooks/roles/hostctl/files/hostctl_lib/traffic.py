"""Reads access logs: the switch's (format `migrate`) and the operator's (anything with Referer and status)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from .system import Paths, parse_iso

WITNESS = "witness.invalid/"
_SWITCH = re.compile(
    r"\[(?P<time>[^\]]+)\] \"[^\"]*\" (?P<status>\d{3}) \S+ \"[^\"]*\" \"[^\"]*\" "
    r"(?P<upstream>\S+) (?P<seconds>[\d.]+) "
)
_ID = re.compile(r"witness\.invalid/([^\"\s]+)")
_STATUS = re.compile(r"\" (\d{3}) ")


@dataclass(frozen=True)
class Request:
    """One request that the switch answered: end time (epoch, whole seconds), upstream, status, duration in seconds."""

    at: int
    upstream: str
    status: int
    seconds: float


class Follower:
    """Reads what was added to the switch's log since the last look; a rotated log is read from its start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0

    def new(self) -> list[Request]:
        """The requests of the lines that were finished since the last call."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return []
        if stat.st_ino != self._inode or stat.st_size < self._offset:
            self._inode, self._offset = stat.st_ino, 0
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            whole, newline, _rest = stream.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return list(_requests(whole.decode(errors="replace").splitlines()))


def window(paths: Paths, config: dict[str, Any], *, since: str) -> dict[str, Any]:
    """The traffic in the switch's log since a moment; errors are answers of 500 and above, times are in seconds."""
    start = math.ceil(parse_iso(since))
    lines = _lines(paths.at(config["switch"]["access_log"]))
    return summary(r for r in _requests(lines) if r.at >= start) | {"since": since}


def summary(requests: Iterable[Request]) -> dict[str, Any]:
    """Totals, and for each upstream its requests, errors and nearest-rank percentiles of the duration."""
    groups: dict[str, list[Request]] = {"triton": [], "gateway": []}
    for request in requests:
        groups.setdefault(request.upstream, []).append(request)
    by_upstream = {name: _figures(group) for name, group in groups.items()}
    return {"total": sum(len(group) for group in groups.values()), "by_upstream": by_upstream}


def ids(paths: Paths, config: dict[str, Any], *, prefix: str) -> dict[str, Any]:
    """Every id that starts with `prefix` and reached the host: its status, who answered, and how often it was seen."""
    found: dict[str, dict[str, Any]] = {}
    switch = config["switch"]
    for log in switch["operator_access_logs"]:
        _collect(found, _lines(paths.at(log)), prefix, "operator")
    _collect(found, _lines(paths.at(switch["access_log"])), prefix, None)
    return {"ids": found}


def rehearsal_log(config: dict[str, Any]) -> str:
    """Where the rehearsal listener logs, apart from the clients' traffic."""
    return str(config["switch"]["access_log"]) + ".rehearsal"


def answered_by(paths: Paths, log: str, prefix: str) -> dict[str, int]:
    """How many requests whose id starts with `prefix` each upstream answered with 200."""
    found: dict[str, dict[str, Any]] = {}
    _collect(found, _lines(paths.at(log)), prefix, None)
    counted: dict[str, int] = {}
    for entry in found.values():
        if entry["status"] == 200:
            counted[entry["upstream"]] = counted.get(entry["upstream"], 0) + 1
    return counted


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile, 0 for no values."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


def _figures(group: list[Request]) -> dict[str, Any]:
    seconds = [r.seconds for r in group]
    shares = {f"p{round(share * 100)}_s": percentile(seconds, share) for share in (0.5, 0.95, 0.99)}
    errors, refused = sum(r.status >= 500 for r in group), sum(400 <= r.status < 499 for r in group)
    return {"requests": len(group), "errors": errors, "refused": refused} | shares


def _collect(found: dict[str, dict[str, Any]], lines: Iterable[str], prefix: str, upstream: str | None) -> None:
    for line in lines:
        match = _ID.search(line) if WITNESS in line else None
        if match is None or not match[1].startswith(prefix):
            continue
        own = _SWITCH.search(line)
        status = own["status"] if own else (_STATUS.search(line) or [None, "0"])[1]
        by = upstream or (own["upstream"] if own else "unknown")
        seen = found.get(match[1], {}).get("seen", 0) + 1
        found[match[1]] = {"status": int(status or 0), "upstream": by, "seen": seen}


def _lines(path: Path) -> Iterator[str]:
    """The lines of a log, those of its last rotation (`.1`) first."""
    for part in (path.with_name(path.name + ".1"), path):
        try:
            with part.open(errors="replace") as stream:
                yield from stream
        except FileNotFoundError:
            continue


def _requests(lines: Iterable[str]) -> Iterator[Request]:
    for line in lines:
        match = _SWITCH.search(line)
        if match:
            yield Request(_moment(match["time"]), match["upstream"], int(match["status"]), float(match["seconds"]))


@lru_cache(maxsize=4096)
def _moment(text: str) -> int:
    """`21/Nov/2026:11:00:00 +0000` as seconds since the epoch."""
    return int(datetime.strptime(text, "%d/%b/%Y:%H:%M:%S %z").timestamp())
