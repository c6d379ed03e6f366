"""Who has a connection to the ports that matter: from `ss` on the host and beside Triton, and connection tracking."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ansible.module_utils.migrate_accesslog import shown

PROC = Path("/proc")
PROXY = "docker-proxy"
_ORIGINAL = re.compile(r"src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+)", re.ASCII)
_CONTAINER = re.compile(r"[0-9a-f]{64}")


class Connection(NamedTuple):
    """One open connection of a caller; `port` is the one of this host that it called."""

    peer: str
    peer_port: int
    port: int
    process: str | None
    container: str | None
    source: str


class Socket(NamedTuple):
    """One line of `ss`: both ends as (address, port), and the process that holds it, where it can be seen."""

    state: str
    local: tuple[str, int]
    peer: tuple[str, int]
    process: str | None
    pid: int | None


class Place(NamedTuple):
    """What the host looks like: addresses are texts; `inside` leads from a port of Triton's container to the host's.

    `reader` is the process that reads: its own questions to Triton are no client's.
    """

    reader: int
    own: frozenset[str]
    triton: frozenset[str]
    gateways: frozenset[str]
    inside: dict[int, int]
    pid: int | None
    started: str | None
    by_address: dict[str, str]
    by_id: dict[str, str]


def sockets(answer: tuple[int, str, str]) -> tuple[list[Socket], str | None]:
    """The lines of an `ss -Htn` (or `-Htnp`, `-Hltnp`); a line of another form is left out."""
    rc, out, err = answer
    found = []
    for line in out.splitlines() if rc == 0 else ():
        fields = line.split(None, 5)
        local, peer = (_end(fields[3]), _end(fields[4])) if len(fields) > 4 else (None, None)
        process = re.search(r'"([^"]+)",pid=(\d+)', fields[5]) if len(fields) > 5 else None
        if local and peer:
            name, pid = (shown(process[1], 40), int(process[2])) if process else (None, None)
            found.append(Socket(fields[0], local, peer, name, pid))
    return found, None if rc == 0 else f"ss: {err.strip() or rc}"


def on_host(found: list[Socket], place: Place, ports: Iterable[int]) -> Iterator[Connection]:
    """Callers among the host's connections: those from outside, and processes of the host with their names.

    A caller on the host shows both of its ends; the caller's own is taken, for that one names the process.
    """
    watched = set(ports)
    ours = {(s.local, s.peer) for s in found}
    for s in found:
        (address, port), (peer, peer_port) = s.local, s.peer
        if s.state != "ESTAB":
            continue
        is_inside = peer in place.triton and peer_port in place.inside
        called = place.inside[peer_port] if is_inside else peer_port
        if (peer in place.own and peer_port in watched) or is_inside:
            if s.process != PROXY and s.pid != place.reader:
                yield Connection(address, port, called, s.process, _container_of(s.pid, place), "sockets")
        elif port in watched and (s.peer, s.local) not in ours:
            yield Connection(peer, peer_port, port, None, place.by_address.get(peer), "sockets")


def in_container(found: list[Socket], place: Place) -> Iterator[Connection]:
    """Callers among the connections of Triton's own network namespace: those that the host's does not show.

    What comes from the network's gateway or the host's own addresses is nginx, or a process that the host shows.
    """
    for s in found:
        peer = s.peer[0]
        if s.state == "ESTAB" and s.local[1] in place.inside and peer not in place.own | place.gateways | place.triton:
            port = place.inside[s.local[1]]
            yield Connection(peer, s.peer[1], port, None, place.by_address.get(peer), "sockets")


def in_tracking(lines: Iterable[str], place: Place, ports: Iterable[int]) -> Iterator[Connection]:
    """Callers from elsewhere in the lines of connection tracking, which remembers a closed one for two minutes."""
    watched, here = set(ports), place.own | place.triton
    for line in lines:
        found = _ORIGINAL.search(line)
        if found is None or "UNREPLIED" in line or "tcp" not in line:
            continue
        (peer, dst), (peer_port, port) = (_plain(found[1]), _plain(found[2])), (int(found[3]), int(found[4]))
        called = place.inside.get(port, port) if dst in place.triton else port
        if peer and dst in here and called in watched and peer not in here | place.gateways:
            yield Connection(peer, peer_port, called, None, place.by_address.get(peer), "tracking")


def _container_of(pid: int | None, place: Place) -> str | None:
    """Name of the container that a process of the host's network runs in, from its control group."""
    try:
        text = (PROC / str(pid) / "cgroup").read_text(errors="replace")
    except OSError:
        return None
    return next((place.by_id[found] for found in _CONTAINER.findall(text) if found in place.by_id), None)


def _end(text: str) -> tuple[str, int] | None:
    address, _, port = text.rpartition(":")
    plain = _plain(address)
    if address == "*" and port.isdigit():
        return "*", int(port)
    return (plain, int(port)) if plain and port.isdigit() else ("*", 0) if port == "*" else None


@lru_cache(maxsize=4096)
def _plain(text: str) -> str:
    """An address without brackets and scope, IPv4 where it is mapped into IPv6; empty for none."""
    try:
        parsed = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return ""
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)
