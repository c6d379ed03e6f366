"""Opens a host of the inventory and reads its facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrate import settings as settings_module
from migrate import variables
from migrate.errors import MigrateError, Refused, SettingsError
from migrate.host import Host, Secret
from migrate.inventory import SETTING_NAMES, Inventory
from migrate.playbook import AnsiblePlaybooks, PlaybookResult
from migrate.settings import Settings

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Target:
    """One host of the inventory, with its settings and the one connection to it."""

    name: str
    inventory: Inventory
    settings: Settings
    connection: Connection
    state: Path
    say: Say

    @property
    def host(self) -> Host:
        """The host, reached by ssh. Raises SettingsError for a way in that is not spoken here."""
        return self.connection.open()

    def playbooks(self, artifacts: Path | None = None) -> AnsiblePlaybooks:
        """The playbooks, run against this target's inventory."""
        return AnsiblePlaybooks(self.inventory, artifacts)

    def with_target(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        """Extra-vars with the host pattern that every playbook needs."""
        return {**extra, "migrate_target": self.name}


class Connection:
    """The one connection to a host, made when it is first asked for: reading facts needs none of its own."""

    def __init__(self, name: str, variables: Callable[[], Mapping[str, Any]]) -> None:
        self._name = name
        self._variables = variables
        self._host: Host | None = None

    def open(self) -> Host:
        """The same Host each time."""
        if self._host is None:
            found = self._variables()
            password = found.get("ansible_become_password") or found.get("ansible_become_pass")
            self._host = Host(self._name, found, become_password=Secret(str(password)) if password else None)
        return self._host

    def close(self) -> None:
        """End it where it was made."""
        if self._host is not None:
            self._host.close()


@contextmanager
def target(name: str, inventory: Inventory, state: Path, say: Say) -> Iterator[Target]:
    """Open a host of the inventory. Raises UsageError or SettingsError that names variable, file and line."""
    found = inventory.variables(name)
    settings = _settings(found, name, inventory)
    connection = Connection(name, lambda: found)
    connection.open()
    try:
        yield Target(name, inventory, settings, connection, state, say)
    finally:
        connection.close()


@contextmanager
def surveyed(
    name: str, inventory: Inventory, state: Path, say: Say, *, meanwhile: Callable[[], None]
) -> Iterator[tuple[Target, dict[str, Any]]]:
    """Open a host and read its facts, with one start of Ansible for both.

    `meanwhile` is called at the start of every task, while the host is busy. Raises what `target` and `discover`
    raise; a wrong host or setting comes before a host that is out of reach.
    """
    given, facts = _survey(name, inventory, meanwhile)
    settings = _settings(given, name, inventory)
    connection = Connection(name, lambda: inventory.variables(name))
    found = Target(name, inventory, settings, connection, state, say)
    try:
        yield found, _previewed(found, facts)
    finally:
        connection.close()


def discover(target: Target) -> dict[str, Any]:
    """Read the host's facts, with what `provision` would change. Raises what `read` raises."""
    return _previewed(target, read(target))


def read(target: Target) -> dict[str, Any]:
    """Read the host's facts alone. Raises HostUnreachable, or Refused where the facts could not be read."""
    result = target.playbooks().run(
        "discover", target.with_target(variables.for_discovery(target.settings)), lambda task: None
    )
    return _facts(target.name, result)


def preview(target: Target, given: Mapping[str, Any], *, undo: bool = False) -> dict[str, Any]:
    """What `provision`, or its undo, would change with the settings given, by its own roles in check mode.

    `changes` are those of PlaybookResult, `refused` is the reason where the roles refuse, else "", `driver_source` is
    where a managed driver comes from, with the reason.
    """
    target.say("provision: looking at what would change (nothing is changed)")
    extra = target.with_target({**given, "provision_state": "absent"} if undo else given)
    result = target.playbooks().run("preview", extra, lambda task: None, check=True)
    told = {"changes": result.changes, "refused": (result.failures or [""])[-1]}
    return told | {"driver_source": result.results.get("driver_source")}


def _previewed(target: Target, facts: dict[str, Any]) -> dict[str, Any]:
    """The facts with what `provision` would change, told by its own roles in check mode, where it manages anything."""
    if not target.settings.provision.manage:
        return facts
    return facts | {"provision": preview(target, variables.for_discovery(target.settings))}


def _survey(name: str, inventory: Inventory, meanwhile: Callable[[], None]) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """The settings as the inventory gives them, its templates filled in, and the facts."""
    wanted = {"migrate_target": name, "discover_settings": SETTING_NAMES}
    try:
        result = AnsiblePlaybooks(inventory).run("discover", wanted, lambda task: meanwhile())
    except MigrateError:
        _settings(inventory.variables(name), name, inventory)
        raise
    if result.results.get("host") != name or not result.facts:
        _settings(inventory.variables(name), name, inventory)
    return result.results.get("settings") or {}, _facts(name, result)


def _facts(name: str, result: PlaybookResult) -> dict[str, Any]:
    if not result.facts:
        raise Refused(f"the facts of {name} could not be read: {'; '.join(result.failures)}")
    return result.facts


def _settings(given: Mapping[str, Any], name: str, inventory: Inventory) -> Settings:
    """The settings. Raises SettingsError that names variable, file and line."""
    try:
        return settings_module.load(given)
    except SettingsError as error:
        variable = str(error).split(":", 1)[0].split(" ", 1)[0]
        raise SettingsError(f"{inventory.where(variable, name)}: {error}") from None
