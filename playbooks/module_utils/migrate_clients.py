"""Reads on a host who calls Triton, and how: nginx's logs, open connections, connection tracking, Docker's networks.

Read-only. Every part may be missing; `reason` then says what could not be looked at. Connections are one look, or
several over `watch_s` seconds, so that a caller who was silent meanwhile is not seen.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from ansible.module_utils.migrate_accesslog import read_logs, shown, stamp
from ansible.module_utils.migrate_host import Run
from ansible.module_utils.migrate_sockets import (
    PROC,
    Connection,
    Place,
    Socket,
    in_container,
    in_tracking,
    on_host,
    sockets,
)

PAUSE_S = 1.0
MAX_TRACKED = 200_000
BALANCERS = {"haproxy", "envoy", "traefik", "caddy", "apache2", "httpd", "varnishd", "kong", "openresty"}
_NGINX = "nginx"


def clients(
    run: Run, params: dict[str, Any], *, pause: Callable[[float], None] = time.sleep, now: float | None = None
) -> dict[str, Any]:
    """Everything that the census is made of, as JSON types; moments are ISO 8601 in UTC.

    `params`: nginx_access_logs, triton_http_port, triton_grpc_port, triton_metrics_port, triton_container,
    public_ports (list), window_s (how far back the logs are read), watch_s (how long connections are watched).
    """
    now = time.time() if now is None else now
    containers, no_docker = running_containers(run)
    listens, no_ss = sockets(run(["ss", "-Hltnp"]))
    place = place_of(containers, own_addresses(run), params)
    seen, not_entered = _watch(run, place, _watched(params, listens), (params.get("watch_s") or 0, pause))
    tracked, tracking = _tracked(run, place, _triton_ports(params), seen)
    since = now - params["window_s"]
    logs = read_logs(params["nginx_access_logs"], since, now, _epoch(place.started))
    told = [no_docker, no_ss, not_entered, *(log["reason"] for log in logs["logs"])]
    return {
        "window_s": params["window_s"],
        "watch_s": params.get("watch_s") or 0,
        "since": stamp(since),
        "log": logs["log"],
        "logs": logs["logs"],
        "inferences": {"since": place.started, "logged": logs["logged_inferences"]},
        "sockets": _rows(seen | tracked),
        "tracking": tracking,
        "networks": networks(containers, params["triton_container"]),
        "balancers": _balancers(listens, containers),
        "reason": "; ".join(reason for reason in told if reason) or None,
    }


def running_containers(run: Run) -> tuple[list[dict[str, Any]], str | None]:
    """`docker container inspect` of every running container, and why there are none where Docker cannot be asked."""
    rc, out, err = run(["docker", "ps", "--quiet", "--no-trunc"])
    if rc != 0:
        return [], f"docker ps: {err.strip() or rc}"
    names = out.split()
    rc, out, err = run(["docker", "container", "inspect", *names]) if names else (0, "[]", "")
    try:
        return json.loads(out or "[]"), None if rc == 0 else f"docker inspect: {err.strip()}"
    except ValueError:
        return [], "docker inspect: its answer is not JSON"


def own_addresses(run: Run) -> frozenset[str]:
    """The host's own addresses, loopback among them."""
    rc, out, _ = run(["ip", "-j", "addr"])
    try:
        links = json.loads(out) if rc == 0 else []
    except ValueError:
        links = []
    found = (info.get("local") for link in links for info in link.get("addr_info") or [])
    return frozenset({"127.0.0.1", "::1"} | {address for address in found if address})


def place_of(containers: list[dict[str, Any]], own: frozenset[str], params: dict[str, Any]) -> Place:
    """The host as connections are read on it; Triton's own namespace is left out where it shares the host's."""
    triton = next((c for c in containers if _name(c) == params["triton_container"]), None)
    ends = _endpoints(triton) if triton else {}
    ports = _triton_ports(params)
    inside = {port: port for port in ports}
    for port, bindings in (((triton or {}).get("NetworkSettings") or {}).get("Ports") or {}).items():
        published = {int(b["HostPort"]) for b in bindings or [] if str(b.get("HostPort")).isdigit()}
        inside.update({int(port.partition("/")[0]): host for host in published & set(ports)})
    addresses = {a: _name(c) for c in containers for end in _endpoints(c).values() for a in _addresses(end)}
    return Place(
        reader=os.getpid(),
        own=own,
        triton=frozenset(a for end in ends.values() for a in _addresses(end)),
        gateways=frozenset(g for end in ends.values() for g in (end.get("Gateway"), end.get("IPv6Gateway")) if g),
        inside=inside,
        pid=triton["State"].get("Pid") if triton and ends else None,
        started=triton["State"].get("StartedAt") if triton else None,
        by_address=addresses,
        by_id={c["Id"]: _name(c) for c in containers},
    )


def networks(containers: list[dict[str, Any]], triton: str) -> list[dict[str, Any]]:
    """The Docker networks that Triton's container is in, and the running containers that share them."""
    inside = {_name(c): set(_endpoints(c)) for c in containers}
    return [
        {"network": name, "members": sorted(other for other in inside if other != triton and name in inside[other])}
        for name in sorted(inside.get(triton, ()))
    ]


def _watch(
    run: Run, place: Place, ports: list[int], watch: tuple[float, Callable[[float], None]]
) -> tuple[set[Connection], str | None]:
    """The callers of one look, and of one more in every second that is watched; why Triton's side was not seen."""
    seconds, pause = watch
    seen: set[Connection] = set()
    problem = None
    for look in itertools.count():
        found, _ = sockets(run(["ss", "-Htnp", _filter([*ports, *place.inside])]))
        seen.update(on_host(found, place, ports))
        if place.pid:
            entered = run(["nsenter", "-t", str(place.pid), "-n", "ss", "-Htn", _filter(place.inside)])
            found, problem = sockets(entered)
            seen.update(in_container(found, place))
        if look * PAUSE_S >= seconds:
            break
        pause(PAUSE_S)
    return seen, f"connections inside Triton's container: {problem}" if problem else None


def _tracked(run: Run, place: Place, ports: list[int], seen: set[Connection]) -> tuple[set[Connection], str | None]:
    """Callers that only connection tracking knows, and where that was read; None where it is not on or not readable.

    The command is used where tracking is on already: it would load the kernel's module.
    """
    known = {(c.peer, c.port) for c in seen}
    table, is_on = PROC / "net/nf_conntrack", PROC / "sys/net/netfilter/nf_conntrack_count"
    try:
        with table.open(errors="replace") as stream:
            found = set(in_tracking(itertools.islice(stream, MAX_TRACKED), place, ports))
        source: str | None = str(table)
    except OSError:
        rc, out, _ = run(["conntrack", "-L", "-p", "tcp"]) if is_on.exists() else (1, "", "")
        found, source = set(in_tracking(out.splitlines(), place, ports)), "conntrack -L" if rc == 0 else None
    return {c for c in found if (c.peer, c.port) not in known}, source


def _rows(seen: Iterable[Connection]) -> list[dict[str, Any]]:
    counted = Counter(c._replace(peer_port=0) for c in seen)
    rows = [
        {
            "peer": c.peer,
            "port": c.port,
            "process": c.process,
            "container": c.container,
            "family": "ipv6" if ":" in c.peer else "ipv4",
            "count": count,
            "source": c.source,
        }
        for c, count in counted.items()
    ]
    return sorted(rows, key=lambda row: (row["port"], -row["count"], row["peer"], str(row["process"])))


def _balancers(listens: list[Socket], containers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Other proxies that listen on the host, or run as containers: callers may be behind them."""
    ports: dict[str, set[int]] = {}
    for s in listens:
        if s.process in BALANCERS:
            ports.setdefault(s.process, set()).add(s.local[1])
    found = [{"name": name, "kind": "process", "listens": sorted(taken)} for name, taken in sorted(ports.items())]
    for c in containers:
        image = str((c.get("Config") or {}).get("Image")).partition("@")[0].rpartition("/")[2].partition(":")[0]
        if image in BALANCERS | {_NGINX}:
            taken = [b["HostPort"] for bound in (c["NetworkSettings"].get("Ports") or {}).values() for b in bound or []]
            found.append({"name": _name(c), "kind": "container", "listens": sorted({int(p) for p in taken if p})})
    return found


def _watched(params: dict[str, Any], listens: list[Socket]) -> list[int]:
    """Triton's ports, the public ones, and every other that nginx listens on."""
    of_nginx = {s.local[1] for s in listens if s.process == _NGINX}
    return sorted({*_triton_ports(params), *params["public_ports"], *of_nginx})


def _triton_ports(params: dict[str, Any]) -> list[int]:
    return [params[f"triton_{kind}_port"] for kind in ("http", "grpc", "metrics")]


def _filter(ports: Iterable[int]) -> str:
    """An expression of ss for connections from or to one of the ports."""
    return "( " + " or ".join(f"sport = :{port} or dport = :{port}" for port in sorted(set(ports))) + " )"


def _epoch(text: str | None) -> float | None:
    """Docker's `2026-11-21T11:00:00.123456789Z` as seconds since the epoch."""
    found = re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", text or "", re.ASCII)
    return datetime.fromisoformat(found[0] + "+00:00").timestamp() if found else None


def _name(container: dict[str, Any]) -> str:
    return shown(str(container.get("Name") or "").lstrip("/"), 60)


def _endpoints(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The container's Docker networks by name; none where it has the host's."""
    found = (container.get("NetworkSettings") or {}).get("Networks") or {}
    return {name: end for name, end in found.items() if name not in ("host", "none")}


def _addresses(end: dict[str, Any]) -> list[str]:
    return [a for a in (end.get("IPAddress"), end.get("GlobalIPv6Address")) if a]
