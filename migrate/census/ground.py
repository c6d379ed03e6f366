"""What the verdicts stand on: the routes that move, where nginx logs them, and what the gateway makes of each model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from migrate.census.client import Verdict
from migrate.gateway.config import StyleName
from migrate.gateway.mapping.styles import INPUTS, OUTPUTS
from migrate.nginx import Directive, load
from migrate.settings import Settings
from migrate.switch import Route, routes
from migrate.targets import Triton, public_ports

Facts = Mapping[str, Any]

# The only version that the gateway answers for (`migrate.variables.gateway_config`).
SERVED_VERSION = "1"
# Where Debian's and Ubuntu's nginx logs when its configuration names no access_log.
_DEFAULT_LOG = "/var/log/nginx/access.log"


@dataclass(frozen=True, slots=True)
class Logged:
    """A location that leads to Triton: the server's ports, the file of its access_log (empty where it has none), and
    whether it takes generate requests."""

    where: str
    path: str
    ports: tuple[int, ...]
    log: str
    generates: bool


@dataclass(frozen=True, slots=True)
class Ground:
    """`routes` and `logged` are empty for a host without nginx."""

    settings: Settings
    facts: Facts
    routes: tuple[Route, ...]
    logged: tuple[Logged, ...]

    @classmethod
    def of(cls, facts: Facts, settings: Settings) -> Ground:
        """Raises SettingsError, with file and line, where the nginx configuration is not understood."""
        files, main = _nginx(facts, settings)
        found = routes(files, main=main, settings=settings) if files else ()
        return cls(settings, facts, tuple(found), logged(facts, settings))

    @property
    def moved_ports(self) -> set[int]:
        """Public ports on which generate requests move."""
        return {route.port for route in self.routes if route.moved}

    @property
    def ports(self) -> set[int]:
        """Public ports with a route to Triton."""
        return {route.port for route in self.routes}

    def unmoved_ports(self, log: str) -> set[int]:
        """Ports whose generate requests are written to this log and do not move."""
        found = (entry.ports for entry in self.logged if entry.log == log and entry.generates)
        return {port for ports in found for port in ports} - self.moved_ports

    def kept(self, leads_to: str) -> list[str]:
        """Names of the public routes to one of Triton's services that cutover leaves where they are."""
        return list(dict.fromkeys(r.name for r in self.routes if not r.moved and r.leads_to == leads_to))

    def of_model(self, name: str) -> tuple[Verdict, str]:
        """What the gateway makes of a model that moves, by the inputs and outputs in Triton's configuration of it."""
        config = (((self.facts.get("triton") or {}).get("configs")) or {}).get(name)
        style = StyleName(self.settings.triton.models[name].style)
        if not isinstance(config, Mapping):
            return Verdict.UNCHANGED, "answered by the gateway in Triton's form (its configuration was not compared)"
        unknown = [i for i in config.get("input") or [] if i["name"] not in INPUTS[style]]
        required = ", ".join(i["name"] for i in unknown if not i.get("optional"))
        if required:
            return Verdict.FAILS, f"every request carries {required}, which the gateway's style {style} refuses by name"
        differences = [f"refuses input {i['name']}" for i in unknown]
        differences += [f"leaves out output {o}" for o in _names(config, "output") - OUTPUTS[style]]
        versions = _versions(self.facts, name) - {SERVED_VERSION}
        differences += [f"says model_version {SERVED_VERSION} instead of {v}" for v in sorted(versions)]
        if differences:
            return Verdict.MAPPED, f"the gateway {'; '.join(sorted(differences))}"
        return (
            Verdict.UNCHANGED,
            "answered by the gateway in Triton's form; a field that it cannot map is refused by name",
        )


def logged(facts: Facts, settings: Settings) -> tuple[Logged, ...]:
    """Every location that leads to Triton, and where its requests are logged. Raises as `Ground.of`."""
    files, main = _nginx(facts, settings)
    return tuple(_logged(load(files, main), settings)) if files else ()


def _nginx(facts: Facts, settings: Settings) -> tuple[Mapping[str, str], str]:
    nginx = facts.get("nginx") or {}
    return nginx.get("files") or {}, nginx.get("main") or settings.nginx.config_file


def _names(config: Mapping[str, Any], kind: str) -> set[str]:
    return {str(tensor["name"]) for tensor in config.get(kind) or []}


def _versions(facts: Facts, name: str) -> set[str]:
    models = (facts.get("triton") or {}).get("models") or []
    return {
        str(m["version"]) for m in models if m.get("name") == name and m.get("version") and m.get("state") == "READY"
    }


def _logged(tree: Directive, settings: Settings) -> Iterator[Logged]:
    for http in tree.within("http"):
        triton = Triton.of(settings, {up.args[0]: up for up in http.within("upstream")})
        for server in http.within("server"):
            ports = tuple(dict.fromkeys(public_ports(server)))
            for location, log in _with_logs(server, _log_of(server, _log_of(http, _DEFAULT_LOG))):
                service = triton.reached_by(location)
                if service:
                    generates = service == "triton http" and triton.can_generate(location)
                    yield Logged(location.where, " ".join(location.args), ports, log, generates)


def _with_logs(block: Directive, inherited: str) -> Iterator[tuple[Directive, str]]:
    for location in block.within("location"):
        log = _log_of(location, inherited)
        yield location, log
        yield from _with_logs(location, log)


def _log_of(block: Directive, inherited: str) -> str:
    """The block's own access_log, empty for `off`; the outer one where it says nothing."""
    own = [item.args[0] for item in block.within("access_log") if item.args]
    return inherited if not own else "" if "off" in own else own[0]
