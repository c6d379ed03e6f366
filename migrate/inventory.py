"""Reads a host's variables out of the operator's Ansible inventory, through Ansible itself."""

from __future__ import annotations

import difflib
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from migrate.bundled import tool
from migrate.errors import SettingsError, UsageError
from migrate.settings import SECRETS, Settings

_TIMEOUT_S = 60
# The variables that are used here: how to reach the host, and our own sections.
_OURS = re.compile(rf"(ansible|{'|'.join(Settings.model_fields)})_")
# The same without Ansible's own, without the one variable that playbooks are given the host in, and without secrets.
SETTING_NAMES = rf"^(?!({'|'.join(['migrate_target', *sorted(SECRETS)])})$)({'|'.join(Settings.model_fields)})_"


@dataclass(frozen=True, slots=True)
class Inventory:
    """An inventory file or directory, and the vault password file that opens it (None: no vault)."""

    path: Path
    vault_password_file: Path | None = None

    def variables(self, host: str) -> Mapping[str, Any]:
        """All variables of one host. Raises UsageError for an unknown host or an inventory that cannot be read."""
        listing = self._listing()
        hosts: dict[str, Any] = listing.get("_meta", {}).get("hostvars", {})
        names = set(hosts) | {h for group in listing.values() for h in group.get("hosts", [])}
        if host not in names:
            near = difflib.get_close_matches(host, names, n=1)
            known = f"did you mean {near[0]}?" if near else f"it has: {', '.join(sorted(names)) or 'no host'}"
            raise UsageError(f"host {host!r} is not in the inventory {self.path}; {known}")
        return self._resolved(host, hosts.get(host, {}))

    def where(self, variable: str, host: str) -> str:
        """`file:line` where a variable is set, or the inventory's path where it is not set anywhere."""
        name = variable.split(".", 1)[0]
        for file in _variable_files(self.path, host):
            line = _line_of(file, name)
            if line:
                return f"{file}:{line}"
        return str(self.path)

    def _listing(self) -> dict[str, Any]:
        listing: dict[str, Any] = json.loads(self._ansible("ansible-inventory", "--list"))
        return listing

    def _resolved(self, host: str, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """The variables with their templates filled in, by Ansible; `ansible-inventory` leaves them as written."""
        wanted = {name: value for name, value in variables.items() if _OURS.match(name) and "{{" in json.dumps(value)}
        if not wanted:
            return variables
        message = {"msg": {name: f"{{{{ {name} }}}}" for name in wanted}}
        answer = self._ansible("ansible", host, "-m", "ansible.builtin.debug", "-a", json.dumps(message))
        try:
            filled: dict[str, Any] = json.loads(answer[answer.index("{") :])["msg"]
        except (ValueError, KeyError):
            raise UsageError(f"the templates of {', '.join(sorted(wanted))} cannot be filled in for {host}") from None
        return {**variables, **filled}

    def _ansible(self, program: str, *arguments: str) -> str:
        command = [tool(program), "-i", str(self.path), *arguments]
        if self.vault_password_file:
            command += ["--vault-password-file", str(self.vault_password_file)]
        environment = os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
        done = subprocess.run(  # noqa: S603 - a list, no shell
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, env=environment
        )
        if done.returncode != 0:
            raise UsageError(f"inventory {self.path} cannot be read: {_last_line(done.stderr or done.stdout)}")
        return done.stdout


def find(path: Path | None, vault_password_file: Path | None = None) -> Inventory:
    """The inventory to use: the one named, else ./inventory, else ./inventory/lab.

    The vault password file is the one named, else ANSIBLE_VAULT_PASSWORD_FILE, else `.secrets/vault-password`
    inside the inventory directory where that exists. Raises UsageError where there is no inventory.
    """
    candidates = [path] if path else [Path("inventory"), Path("inventory/lab")]
    chosen = next((c for c in candidates if c.is_file() or _is_inventory_directory(c)), None)
    if chosen is None:
        tried = ", ".join(str(c) for c in candidates)
        raise UsageError(f"no inventory at {tried}", advice="name it: migrate … --inventory PATH")
    configured = os.environ.get("ANSIBLE_VAULT_PASSWORD_FILE")
    vault = vault_password_file or (Path(configured) if configured else chosen / ".secrets" / "vault-password")
    if vault_password_file and not vault.exists():
        raise SettingsError(f"vault password file {vault} does not exist")
    return Inventory(chosen.resolve(), vault.resolve() if vault.exists() else None)


def _is_inventory_directory(path: Path) -> bool:
    return path.is_dir() and any(path.glob("hosts*"))


def _variable_files(root: Path, host: str) -> list[Path]:
    if root.is_file():
        return [root]
    files = [p for p in root.rglob("*") if p.suffix in {".yml", ".yaml"} and ".secrets" not in p.parts]
    return sorted(files, key=lambda p: (host not in p.name, "host_vars" not in p.parts, p))


def _line_of(file: Path, name: str) -> int | None:
    try:
        tree = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        return None
    return _find_key(tree, name)


def _find_key(node: yaml.Node | None, name: str) -> int | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == name:
                return int(key.start_mark.line) + 1
            found = _find_key(value, name)
            if found:
                return found
    return None


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "ansible-inventory said nothing"
