"""The verdict on each caller that the host's facts show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from migrate.census.client import Client, How, Verdict
from migrate.census.ground import SERVED_VERSION, Facts, Ground
from migrate.settings import Settings

GENERATE = {"generate", "generate_stream"}
_NGINX = "nginx"
_ORDER = list(Verdict)

Row = Mapping[str, Any]


def census(facts: Facts, settings: Settings) -> list[Client]:
    """Every caller, the worst verdict first, then the busiest.

    Raises SettingsError, with file and line, where the nginx configuration is not understood.
    """
    found = facts.get("clients") or {}
    ground = Ground.of(facts, settings)
    rows = [*_of_log(found, ground), *_of_sockets(found, ground), *_of_networks(found, ground)]
    rows += [*_of_balancers(found, ground), *_of_shared_memory(facts, ground)]
    return sorted(rows, key=lambda row: (_ORDER.index(row.verdict), -row.requests, -row.connections, row.who, row.asks))


def _of_log(found: Row, ground: Ground) -> Iterator[Client]:
    """Callers that nginx logged; one on this host or in a container carries the name that its connection showed."""
    names = {s["peer"]: _name(s) for s in found.get("sockets") or [] if _name(s) and s["process"] != _NGINX}
    for row in found.get("log") or []:
        client = Client(
            who=" ".join(part for part in (row["peer"], names.get(row["peer"], "")) if part),
            how=How.NGINX,
            protocol=row["protocol"],
            asks=row["route"],
            verdict=Verdict.STAYS,
            because="",
            agent="migrate's own witness, by its Referer" if row.get("witness") else row["user_agent"],
            requests=row["count"],
            errors=row["status_5xx"],
            last=row["last"],
        )
        verdict, because, advice = _of_request(row, ground)
        yield replace(client, verdict=verdict, because=because, next=advice)


def _of_request(row: Row, ground: Ground) -> tuple[Verdict, str, str]:
    models = ground.settings.triton.models
    if row["verb"] == "various":
        return Verdict.UNCLEAR, "more callers or routes than the census keeps apart", "look into nginx's log"
    if row["verb"] not in GENERATE or row["model"] not in models or not _is_plain(row["version"]):
        return Verdict.STAYS, _why_kept(row, ground), _before_retire(row, ground)
    unmoved = ground.unmoved_ports(row["listener"])
    if unmoved or not ground.moved_ports:
        moved = ", ".join(map(str, sorted(ground.moved_ports))) or "none"
        ports = ", ".join(map(str, sorted(unmoved))) or "every port"
        because = f"the log does not tell its ports apart: what comes on {ports} stays on Triton, on {moved} it moves"
        return Verdict.STAYS, because, f"add port {ports} to switch_ports, or give each server a log of its own"
    if row["version"] and int(row["version"]) != int(SERVED_VERSION):
        because = (
            f"the gateway answers for version {SERVED_VERSION} only: version {row['version']} gets 404 from cutover on"
        )
        return Verdict.FAILS, because, "leave /versions/… out of the URL before the cutover"
    verdict, because = ground.of_model(row["model"])
    advice = {Verdict.MAPPED: "see that it does without", Verdict.FAILS: f"see triton_models: {row['model']}: style"}
    return verdict, because, advice.get(verdict, "")


def _is_plain(version: str) -> bool:
    """Whether the switch moves a request for this version: the regular expression wants digits."""
    return version == "" or (version.isascii() and version.isdigit())


def _why_kept(row: Row, ground: Ground) -> str:
    if row["protocol"] == "grpc":
        return "gRPC stays on Triton and ends when Triton is retired"
    if row["verb"] in GENERATE and row["model"] not in ground.settings.triton.models:
        return "this model is not in triton_models: it stays on Triton and ends when Triton is retired"
    return "the gateway does not answer this request: it stays on Triton and ends when Triton is retired"


def _before_retire(row: Row, ground: Ground) -> str:
    service = "triton grpc" if row["protocol"] == "grpc" else "triton http"
    names = "; ".join(ground.kept("triton metrics" if row["protocol"] == "metrics" else service)[:3])
    accept = f"or accept the loss of {names} under retire_lost_routes" if names else "or keep Triton"
    return f"before `migrate retire`: move it to generate or /v1, {accept}"


def _of_sockets(found: Row, ground: Ground) -> Iterator[Client]:
    """Callers with an open connection: past nginx to Triton's ports, or to a public port without a logged request."""
    logged = {row["peer"] for row in found.get("log") or []}
    services = _services(ground.settings)
    for row in found.get("sockets") or []:
        if row["process"] == _NGINX:
            continue
        if row["port"] in services:
            yield _past_nginx(row, found, ground)
        elif row["port"] in ground.ports and row["peer"] not in logged:
            yield _silent(row, ground)


def _past_nginx(row: Row, found: Row, ground: Ground) -> Client:
    service, port = _services(ground.settings)[row["port"]], row["port"]
    balances = _is_balancer(row, found)
    behind = "; it is a balancer, and its own clients are behind it" if balances else ""
    because = f"past nginx to Triton's port {port}: the cutover does not move it, and it fails when Triton is retired"
    url = ground.settings.migrate.public_http_url
    advice = {
        "http": f"lead it to {url} before `migrate retire`, which does not see it",
        "grpc": f"move it to HTTP generate at {url} before `migrate retire`: the gateway speaks no gRPC",
        "metrics": f"scrape 127.0.0.1:{ground.settings.vllm.port}/metrics instead; its names differ",
    }[service]
    return Client(
        who=_who(row),
        how=_how(row, found),
        protocol=service,
        asks=f"port {port}",
        verdict=Verdict.FAILS,
        because=because + behind,
        next=advice,
        connections=row["count"],
    )


def _silent(row: Row, ground: Ground) -> Client:
    moves = row["port"] in ground.moved_ports
    rest = (
        "its next connection reaches the switch" if moves else "the port is not in switch_ports, so it stays on Triton"
    )
    return Client(
        who=_who(row),
        how=How.NGINX,
        protocol="tcp",
        asks=f"port {row['port']}",
        verdict=Verdict.UNCLEAR,
        because=f"connected, and no request for Triton of it is in the log yet; {rest}",
        next="plan again with a longer census_window_s, or when its stream has ended",
        connections=row["count"],
    )


def _of_networks(found: Row, ground: Ground) -> Iterator[Client]:
    connected = {row["container"] for row in found.get("sockets") or [] if row["port"] in _services(ground.settings)}
    balancers = {entry["name"] for entry in found.get("balancers") or []}
    for network in found.get("networks") or []:
        silent = [member for member in network["members"] if member not in connected | balancers]
        if silent:
            yield Client(
                who=", ".join(silent),
                how=How.NETWORK,
                protocol="tcp",
                asks=f"network {network['network']}",
                verdict=Verdict.UNCLEAR,
                because="can reach Triton by its container's name past nginx; no connection of it was seen",
                next=f"look for {ground.settings.triton.container} in its configuration, or set census_watch_s",
            )


def _of_balancers(found: Row, ground: Ground) -> Iterator[Client]:
    connected = {name for row in found.get("sockets") or [] for name in (row["process"], row["container"])}
    for entry in found.get("balancers") or []:
        if entry["name"] not in connected:
            ports = ", ".join(map(str, entry["listens"])) or "no port of the host"
            yield Client(
                who=f"{entry['name']} ({entry['kind']})",
                how=How.DIRECT,
                protocol="tcp",
                asks=f"listens on {ports}",
                verdict=Verdict.UNCLEAR,
                because="another proxy on this host; no connection of it to Triton was seen",
                next="see whether its configuration leads to Triton's own ports, or set census_watch_s",
            )


def _of_shared_memory(facts: Facts, ground: Ground) -> Iterator[Client]:
    regions = (facts.get("triton") or {}).get("shared_memory") or {}
    for kind, names in sorted(regions.items()):
        if names:
            yield Client(
                who=", ".join(sorted(names)),
                how=How.MEMORY,
                protocol="http or grpc",
                asks=f"infer, {kind} regions",
                verdict=Verdict.FAILS,
                because="tensors in shared memory cannot go through the gateway; they fail when Triton is retired",
                next="let these clients send their data in the request before `migrate retire`",
            )


def _services(settings: Settings) -> dict[int, str]:
    triton = settings.triton
    return {triton.http_port: "http", triton.grpc_port: "grpc", triton.metrics_port: "metrics"}


def _how(row: Row, found: Row) -> How:
    members = {member for network in found.get("networks") or [] for member in network["members"]}
    if row["container"] in members:
        return How.NETWORK
    return How.LOOPBACK if row["process"] or row["peer"].startswith("127.") or row["peer"] == "::1" else How.DIRECT


def _is_balancer(row: Row, found: Row) -> bool:
    names = {entry["name"] for entry in found.get("balancers") or []}
    return row["process"] in names or row["container"] in names


def _name(row: Row) -> str:
    name = row["container"] or row["process"]
    return f"({name})" if name else ""


def _who(row: Row) -> str:
    return " ".join(part for part in (row["peer"], _name(row)) if part)
