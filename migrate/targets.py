"""Where the locations of an nginx configuration lead, and which of them lead to Triton. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from migrate.errors import SettingsError
from migrate.nginx import Directive
from migrate.settings import Settings

_PASSES = ("proxy_pass", "grpc_pass")
_TARGET = re.compile(r"^(?:(?:https?|grpcs?)://)?(?P<host>\[[^\]]+\]|[^:/]+)(?::(?P<port>\d+))?(?P<uri>/.*)?$")
_LOOPBACK = {"127.0.0.1", "localhost", "[::1]", "0.0.0.0"}  # noqa: S104 - what an operator may have written
_SAMPLE_VERSION = "versions/1/"


@dataclass(frozen=True, slots=True)
class Route:
    """A public route that leads to Triton: where clients come in, and whether cutover moves it away."""

    port: int
    location: str
    leads_to: str
    moved: bool
    where: str

    @property
    def name(self) -> str:
        """`80 /v2/`: what an operator writes to accept its loss, and what reports show."""
        return f"{self.port} {self.location}"


@dataclass(frozen=True, slots=True)
class Triton:
    """Triton's ports and models, and the operator's upstreams: enough to say what a location leads to."""

    ports: Mapping[int, str]
    models: tuple[str, ...]
    upstreams: Mapping[str, Directive]

    @classmethod
    def of(cls, settings: Settings, upstreams: Mapping[str, Directive]) -> Triton:
        triton = settings.triton
        ports = {
            triton.http_port: "triton http",
            triton.grpc_port: "triton grpc",
            triton.metrics_port: "triton metrics",
        }
        return cls(ports, tuple(sorted(triton.models)), upstreams)

    def reached_by(self, location: Directive) -> str | None:
        """`triton http`, `triton grpc` or `triton metrics` for a location that passes to it, else None.

        Raises SettingsError for an upstream that mixes Triton with other servers.
        """
        target = pass_of(location)
        return self._service(target) if target else None

    @property
    def generate(self) -> str:
        """The requests that the gateway answers, as a regular expression that nginx and Python read alike."""
        names = "|".join(re.escape(name).replace("\\-", "-") for name in self.models)
        return rf"^/v2/models/({names})(/versions/[0-9]+)?/generate(_stream)?$"

    def can_generate(self, location: Directive) -> bool:
        """Whether a location can be asked for one of the requests that the gateway answers."""
        modifier, path = ("", *location.args)[-2:]
        samples = [
            f"/v2/models/{m}/{v}generate{s}"
            for m in self.models
            for v in ("", _SAMPLE_VERSION)
            for s in ("", "_stream")
        ]
        if modifier == "=":
            return bool(re.search(self.generate, path))
        if modifier in ("~", "~*"):
            return any(_matches(path, sample, modifier) for sample in samples)
        return any(sample.startswith(path) for sample in samples)

    def _service(self, target: Directive) -> str | None:
        parsed = _TARGET.match(target.args[0]) if target.args else None
        if parsed is None:
            return None
        upstream = self.upstreams.get(parsed["host"])
        if upstream is None:
            return self._local(parsed["host"], parsed["port"])
        found = {self._of_server(server) for server in upstream.within("server")}
        if len(found) > 1 and found - {None}:
            raise SettingsError(
                f"{upstream.where}: upstream {parsed['host']} mixes Triton's {target.args[0]} with other servers"
            )
        return found.pop() if len(found) == 1 else None

    def _of_server(self, server: Directive) -> str | None:
        parsed = _TARGET.match(server.args[0])
        return self._local(parsed["host"], parsed["port"]) if parsed else None

    def _local(self, host: str, port: str | None) -> str | None:
        return self.ports.get(int(port)) if port and host in _LOOPBACK else None


def pass_of(location: Directive) -> Directive | None:
    """The location's own proxy_pass or grpc_pass."""
    return next((d for name in _PASSES for d in location.within(name)), None)


def path_of_target(target: Directive) -> str | None:
    """The URI that a proxy_pass puts in place of the location's, None where it leaves the path alone."""
    parsed = _TARGET.match(target.args[0])
    return parsed["uri"] if parsed else None


def locations(block: Directive) -> Iterator[Directive]:
    """Every location in a server, nested ones too."""
    for location in block.within("location"):
        yield location
        yield from locations(location)


def public_ports(server: Directive) -> list[int]:
    """The TCP ports that a server listens on; nginx's own default is 80."""
    listens = list(server.within("listen"))
    return [port for listen in listens if (port := listen_port(listen)) is not None] if listens else [80]


def listen_port(listen: Directive) -> int | None:
    """The TCP port of one `listen`, None for a unix socket or QUIC."""
    address = listen.args[0]
    if address.startswith("unix:") or "quic" in listen.args:
        return None
    last = address.rpartition(":")[2] if not address.endswith("]") else ""
    return int(last) if last.isdigit() else 80


def _matches(pattern: str, path: str, modifier: str) -> bool:
    try:
        return re.search(pattern, path, re.IGNORECASE if modifier == "~*" else 0) is not None
    except re.error:
        return True
