"""The switch's nginx configuration: the operator's own, copied, with the requests that the gateway speaks split.

Pure. For each request nginx looks whether the flag file of the request's bucket exists: `split_clients` on
`$request_id` gives 5, 20, 25 and 50 % of the requests to the buckets b5, b25, b50 and b100.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from migrate.errors import SettingsError
from migrate.nginx import Directive, build, directive, load
from migrate.settings import Settings
from migrate.targets import Route, Triton, listen_port, locations, pass_of, path_of_target, public_ports

__all__ = ["Route", "render", "routes"]

_FLAGS = {"live": "/run/migrate/live", "rehearsal": "/run/migrate/rehearsal"}
_OWN_MAIN = {"pid", "error_log", "daemon", "master_process", "lock_file", "http", "stream", "mail"}
_OURS_ALONE = {"access_log", "error_log"}
_LOG_FORMAT = (
    '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"'
    " $migrate_up $request_time $upstream_response_time"
)
_RELATIVE_PATHS = re.compile(
    r"^((proxy_|grpc_|uwsgi_)?ssl_(certificate|certificate_key|trusted_certificate|client_certificate|password_file|crl|"
    r"dhparam|session_ticket_key|stapling_file)|auth_basic_user_file)$"
)
# Shorter than any upstream's own idle limit (uvicorn's is 5 s), so that no request meets a connection that just closed.
_UPSTREAM_IDLE = "4s"


def render(files: Mapping[str, str], *, main: str, settings: Settings) -> str:
    """The text of the switch's nginx.conf, from the operator's files (path -> text) and the main one's path.

    Raises SettingsError, with file and line, where the configuration is not understood or leads nothing to Triton.
    """
    tree = load(files, main)
    http = _http(tree, main)
    switch = _Switch.of(settings, http, main)
    servers = [server for server in http.within("server") if switch.is_public(server)]
    copied = [switch.server(server) for server in servers]
    first = next((server for server in servers if switch.moves(server)), None)
    if first is None:
        raise SettingsError(_nothing_moves(settings, http, main), advice="check switch_ports and triton_http_port")
    shared = [item for item in http.block or () if item.name not in _OURS_ALONE | {"server"}]
    inside = (*map(switch.adapted, shared), *switch.own_http(), *copied, switch.rehearsal(first))
    outside = tuple(switch.adapted(item) for item in tree.block or () if item.name not in _OWN_MAIN)
    own = (directive("pid", "/run/migrate/switch.pid"), directive("error_log", _error_log(settings), "warn"))
    return build((*outside, *own, http.holding(inside)))


def routes(files: Mapping[str, str], *, main: str, settings: Settings) -> list[Route]:
    """Every public route that leads to Triton, on every port; `moved` says that cutover leads it to the gateway.

    A location whose generate requests move and whose other requests stay counts twice. Raises as `render`.
    """
    tree = load(files, main)
    http = _http(tree, main)
    switch = _Switch.of(settings, http, main)
    found = [route for server in http.within("server") for route in _routes_of(server, switch)]
    for stream in tree.within("stream"):
        found += _stream_routes(stream, settings)
    return found


@dataclass(frozen=True, slots=True)
class _Switch:
    """What the rewriting needs to know of host and operator."""

    settings: Settings
    http: Directive
    triton: Triton
    main: str

    @classmethod
    def of(cls, settings: Settings, http: Directive, main: str) -> _Switch:
        if settings.triton.http_port in settings.switch.ports:
            raise SettingsError(
                f"switch_ports: {settings.triton.http_port} is Triton's own port; the switch would lead to itself",
                advice="publish Triton through nginx, or give Triton another port",
            )
        upstreams = {up.args[0]: up for up in http.within("upstream")}
        return cls(settings, http, Triton.of(settings, upstreams), main)

    def is_public(self, server: Directive) -> bool:
        return any(port in self.settings.switch.ports for port in public_ports(server))

    def splits(self, location: Directive) -> bool:
        """Whether requests of this location move. Raises SettingsError where they would in a form not understood."""
        if self.triton.reached_by(location) != "triton http":
            return False
        target = pass_of(location)
        uri = path_of_target(target) if target else None
        path = location.args[-1]
        if uri and uri != path and "/v2/models/".startswith(uri):
            raise SettingsError(f"{location.where}: location {path} rewrites the path on its way to Triton ({uri})")
        if not self.triton.can_generate(location) or path.startswith("@"):
            return False
        if any(item.name == "rewrite" for item in location.block or ()):
            raise SettingsError(f"{location.where}: location {path} rewrites the path on its way to Triton")
        return True

    def moves(self, server: Directive) -> bool:
        return any(self.splits(location) for location in locations(server))

    def server(self, server: Directive) -> Directive:
        """A public server on the switch's ports, its generate requests split."""
        ports = self.settings.switch.ports
        listens = list(server.within("listen")) or [directive("listen", "80")]
        moved = [_moved_listen(listen, ports) for listen in listens]
        rest = [item for item in server.block or () if item.name != "listen"]
        return server.holding((*(item for item in moved if item), *self._content(server, rest, "live")))

    def rehearsal(self, server: Directive) -> Directive:
        """A plain private listener with the same locations and flags of its own."""
        rest = [
            i
            for i in server.block or ()
            if i.name not in {"listen", "server_name", "http2"} and not i.name.startswith("ssl")
        ]
        log = directive("access_log", f"{self.settings.switch.access_log}.rehearsal", "migrate")
        listen = directive("listen", f"127.0.0.1:{self.settings.switch.rehearsal_port}")
        return server.holding((listen, log, *self._content(server, rest, "rehearsal")))

    def own_http(self) -> tuple[Directive, ...]:
        """Log, buckets and upstreams of the switch."""
        return (
            directive("port_in_redirect", "off"),
            directive("log_format", "migrate", _LOG_FORMAT),
            directive("access_log", self.settings.switch.access_log, "migrate"),
            directive("map", "$server_port", "$migrate_port", block=tuple(self._public_ports())),
            directive(
                "split_clients", "$request_id", "$migrate_bucket", block=tuple(_buckets(self.settings.switch.steps))
            ),
            self._triton_upstream(),
            _upstream("gateway", (f"127.0.0.1:{self.settings.gateway.port}",)),
            _upstream("vllm", (f"127.0.0.1:{self.settings.vllm.port}",)),
        )

    def adapted(self, item: Directive) -> Directive:
        """A copied directive that means the same in another file, on another port, and leaves logging to us."""
        args = tuple(_adapted_argument(item, number, argument, self.main) for number, argument in enumerate(item.args))
        block = None if item.block is None else tuple(self.adapted(i) for i in item.block if i.name not in _OURS_ALONE)
        return Directive(item.name, args, block, item.file, item.line)

    def _content(self, server: Directive, rest: list[Directive], scope: str) -> Iterator[Directive]:
        yield directive("set", "$migrate_up", "operator")
        kept = [item for item in rest if item.name not in _OURS_ALONE]
        for item in kept:
            yield self._location(item, (server,), scope) if item.name == "location" else self.adapted(item)
        splitting = next((location for location in locations(server) if self.splits(location)), None)
        if splitting and not any(location.args[-1].startswith("/v1") for location in locations(server)):
            yield self._openai(splitting, server)

    def _location(self, location: Directive, above: tuple[Directive, ...], scope: str) -> Directive:
        self._refuse_hidden_passes(location)
        inside = tuple(
            self._location(item, (*above, location), scope) if item.name == "location" else self.adapted(item)
            for item in location.block or ()
            if item.name not in _OURS_ALONE
        )
        if self.triton.reached_by(location):
            inside = (directive("set", "$migrate_up", "triton"), *inside)
        if not self.splits(location):
            return location.holding(inside)
        split = self._split(location, above, scope)
        if location.args[0] == "=":
            return location.holding(split)
        return location.holding((*inside, directive("location", "~", self.triton.generate, block=split)))

    def _split(self, location: Directive, above: tuple[Directive, ...], scope: str) -> tuple[Directive, ...]:
        flag = f"{_FLAGS[scope]}/$migrate_bucket"
        to_gateway = directive("if", "-f", flag, block=(directive("set", "$migrate_up", "gateway"),))
        return (
            *self._passing(location, above),
            directive("open_file_cache", "off"),
            directive("set", "$migrate_up", "triton"),
            to_gateway,
            directive("proxy_pass", "http://migrate_$migrate_up"),
        )

    def _openai(self, like: Directive, server: Directive) -> Directive:
        """vLLM's own API, with the access rules and limits of the location that leads to Triton."""
        passing = [i for i in self._passing(like, (server,)) if i.name not in {"proxy_buffering", "proxy_read_timeout"}]
        more = (("proxy_buffering", "off"), ("proxy_read_timeout", "600s"), ("set", "$migrate_up", "vllm"))
        ours = [directive(name, *args) for name, *args in (*more, ("proxy_pass", "http://migrate_vllm"))]
        return directive("location", "/v1/", block=(*passing, *ours))

    def _passing(self, location: Directive, above: tuple[Directive, ...]) -> list[Directive]:
        """What else the location says, with the headers that it inherits and a kept-alive upstream connection."""
        ours = {"proxy_pass", "location", "open_file_cache", "proxy_set_header", "proxy_http_version", "proxy_redirect"}
        kept = [self.adapted(i) for i in location.block or () if i.name not in ours | _OURS_ALONE]
        levels = (location, *reversed(above), self.http)
        headers = next((found for level in levels if (found := list(level.within("proxy_set_header")))), [])
        kept += [self.adapted(header) for header in headers]
        if not any(header.args[0].lower() == "connection" for header in headers):
            kept.append(directive("proxy_set_header", "Connection", ""))
        return [*kept, directive("proxy_http_version", "1.1")]

    def _refuse_hidden_passes(self, location: Directive) -> None:
        for inner in location.block or ():
            if inner.name in {"if", "limit_except"} and self.triton.reached_by(inner):
                raise SettingsError(
                    f"{inner.where}: {inner.name} inside location {location.args[-1]} leads to Triton by itself"
                )

    def _triton_upstream(self) -> Directive:
        """The operator's own servers with their parameters where Triton has an upstream block, else its port."""
        for upstream in self.triton.upstreams.values():
            probe = directive("location", "/", block=(directive("proxy_pass", f"http://{upstream.args[0]}"),))
            if self.triton.reached_by(probe) == "triton http":
                return _upstream("triton", tuple(" ".join(server.args) for server in upstream.within("server")))
        return _upstream("triton", (f"127.0.0.1:{self.settings.triton.http_port}",))

    def _public_ports(self) -> Iterator[Directive]:
        yield directive("default", "$server_port")
        for public, own in self.settings.switch.ports.items():
            yield directive(str(own), str(public))


def _http(tree: Directive, main: str) -> Directive:
    http = next(tree.within("http"), None)
    if http is None:
        raise SettingsError(f"{main}: has no http block", advice="check nginx_config_file")
    return http


def _moved_listen(listen: Directive, ports: Mapping[int, int]) -> Directive | None:
    """The same `listen` on the switch's port, None for one that is not public."""
    port = listen_port(listen)
    if port is None or port not in ports:
        return None
    address = listen.args[0]
    host = (
        ""
        if address.isdigit()
        else address
        if address.endswith("]") or ":" not in address
        else address.rpartition(":")[0]
    )
    return directive("listen", f"{host}:{ports[port]}" if host else str(ports[port]), *listen.args[1:])


def _buckets(steps: list[Any]) -> Iterator[Directive]:
    """Each bucket takes what its step adds to the one before; the last takes the rest."""
    before = 0
    for step in sorted(steps):
        yield directive("*" if step == 100 else f"{step - before}%", f"b{step}")
        before = step


def _upstream(name: str, servers: tuple[str, ...]) -> Directive:
    listed = tuple(directive("server", *server.split()) for server in servers)
    keeping = (directive("keepalive", "64"), directive("keepalive_timeout", _UPSTREAM_IDLE))
    return directive("upstream", f"migrate_{name}", block=(*listed, *keeping))


def _adapted_argument(item: Directive, number: int, argument: str, main: str) -> str:
    """`$server_port` is the public one; paths that nginx takes relative to its own file lie beside the operator's."""
    if number == 0 and _RELATIVE_PATHS.match(item.name) and not argument.startswith(("/", "$", "data:", "engine:")):
        return f"{main.rpartition('/')[0]}/{argument}" if argument != "off" else argument
    if number == 0 and item.name == "proxy_cache_path":
        return f"{argument.rstrip('/')}-switch"
    return re.sub(r"\$(server_port\b|\{server_port\})", "${migrate_port}", argument)


def _error_log(settings: Settings) -> str:
    return f"{settings.switch.access_log.rpartition('/')[0]}/switch.error.log"


def _nothing_moves(settings: Settings, http: Directive, main: str) -> str:
    ports = ", ".join(map(str, settings.switch.ports))
    public = (server for server in http.within("server") if set(public_ports(server)) & set(settings.switch.ports))
    seen = [p for server in public for location in locations(server) if (p := pass_of(location))]
    others = (
        "; ".join(f"{item.where} leads to {' '.join(item.args)}" for item in seen) or "no location passes anything on"
    )
    triton = f"127.0.0.1:{settings.triton.http_port} (Triton)"
    return f"{main}: on the public ports {ports} no location leads generate requests to {triton}: {others}"


def _routes_of(server: Directive, switch: _Switch) -> Iterator[Route]:
    for port in dict.fromkeys(public_ports(server)):
        for location in locations(server):
            service = switch.triton.reached_by(location)
            if service is None:
                continue
            name = " ".join(location.args)
            moved = port in switch.settings.switch.ports and switch.splits(location)
            if moved:
                yield Route(port, f"{name} generate", "gateway", True, location.where)
            if not (moved and location.args[0] == "="):
                yield Route(port, name, service, False, location.where)


def _stream_routes(stream: Directive, settings: Settings) -> Iterator[Route]:
    triton = Triton.of(settings, {up.args[0]: up for up in stream.within("upstream")})
    for server in stream.within("server"):
        service = triton.reached_by(server)
        if service:
            for port in public_ports(server):
                yield Route(port, "stream", service, False, server.where)
