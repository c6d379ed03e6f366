"""TCP connections of this host as the kernel lists them, and which of them connection tracking knows."""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import HostctlError
from .system import run

_ESTABLISHED, _LISTEN = "01", "0A"
_TUPLE = re.compile(r"src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+)")

Ends = frozenset[tuple[str, int]]


@dataclass(frozen=True)
class Socket:
    """One line of /proc/net/tcp or tcp6; an address that maps IPv4 into IPv6 is shown as IPv4."""

    local: tuple[str, int]
    peer: tuple[str, int]
    state: str


def listening(port: int) -> bool:
    """Whether anything listens on a TCP port, at whatever address."""
    return any(s.state == _LISTEN and s.local[1] == port for s in _sockets())


def count(port: int) -> int:
    """How many connections to a local port are established."""
    return len(_established([port]))


def wait_until_known(ports: list[int], limit_s: float) -> dict[str, Any]:
    """Wait until tracking knows every connection that is open now on these ports.

    Returns how many are `known` and `unknown`, and where that was read; `unknown` is None where it cannot be read.
    """
    deadline = time.monotonic() + limit_s
    before = _established(ports)
    while True:
        tracked, source = _tracked()
        if tracked is None:
            return {"known": 0, "unknown": None, "tracking": source}
        unknown = (before & _established(ports)) - tracked
        if not unknown or time.monotonic() > deadline:
            return {"known": len(before) - len(unknown), "unknown": len(unknown), "tracking": source}
        time.sleep(0.1)


def _established(ports: list[int]) -> set[Ends]:
    return {frozenset((s.local, s.peer)) for s in _sockets() if s.state == _ESTABLISHED and s.local[1] in ports}


def _sockets() -> Iterator[Socket]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            fields = line.split()
            yield Socket(_end(fields[1]), _end(fields[2]), fields[3])


def _end(text: str) -> tuple[str, int]:
    """`0100007F:0050` -> ("127.0.0.1", 80): each 32-bit word of the address is in host (little-endian) order."""
    address, port = text.split(":")
    packed = b"".join(bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8))
    return _plain(str(ipaddress.ip_address(packed))), int(port, 16)


def _plain(address: str) -> str:
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def _tracked() -> tuple[set[Ends] | None, str]:
    """The connections that tracking knows, and where they were read; None where neither source is there."""
    try:
        text, source = Path("/proc/net/nf_conntrack").read_text(), "/proc/net/nf_conntrack"
    except OSError:
        try:
            text = "".join(run(["conntrack", "-L", "-p", "tcp", "-f", family]) for family in ("ipv4", "ipv6"))
        except HostctlError:
            return None, "unreadable: no /proc/net/nf_conntrack and no conntrack command"
        source = "conntrack -L"
    found = (_TUPLE.search(line) for line in text.splitlines())
    return {frozenset(((_plain(m[1]), int(m[3])), (_plain(m[2]), int(m[4])))) for m in found if m}, source
