"""Runs `hostctl` on a host over one multiplexed OpenSSH connection. Nothing else in `migrate` opens one.

The connection is described by the host's Ansible variables, so that jump hosts, certificates and proxies work here as
they do in playbooks. The sudo password goes to sudo's standard input and nowhere else.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from migrate.errors import HostUnreachable, LockHeld, MigrateError, NotProven, Refused, SettingsError

HOSTCTL = "/usr/local/lib/migrate/hostctl"
_REACHED = "migrate-host-reached"
_STDIN_BEGINS = "migrate-stdin-begins"
_MISSING = 127
_SSH_FAILED = 255
_CONNECT_TIMEOUT_S = 10
_KEEP_OPEN_S = 120
_ERRORS: Mapping[int, type[MigrateError]] = {3: Refused, 4: LockHeld, 7: NotProven}
# sudo takes the first line only where it wants a password; whatever of it is left is thrown away up to the mark.
_REMOTE = (
    f'while IFS= read -r line; do [ "$line" = {_STDIN_BEGINS} ] && break; done; unset line; echo {_REACHED}; '
    f'[ -x {HOSTCTL} ] || exit {_MISSING}; exec {HOSTCTL} "$@"'
)


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A text that shows itself only when asked: `repr`, `str` and format give stars."""

    _text: str

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__


class Host:
    """A host, reached as Ansible reaches it. Use as a context manager, or call `close`.

    `variables` are the host's Ansible variables (`ansible_host`, `ansible_port`, `ansible_user`,
    `ansible_ssh_private_key_file`, `ansible_ssh_common_args`, `ansible_ssh_extra_args`). Raises SettingsError for a
    way in that this does not speak (a connection other than ssh, a password for ssh, a method other than sudo).
    """

    def __init__(self, name: str, variables: Mapping[str, Any], become_password: Secret | None = None) -> None:
        self.name = name
        self._become_password = become_password
        self._become = _become_command(name, variables, become_password is not None)
        connection = _ssh_command(name, variables)
        # A socket's path may have 108 bytes, which a longer TMPDIR would break.
        self._sockets = tempfile.TemporaryDirectory(prefix="mg-", dir="/tmp")  # noqa: S108 - 0700, made by mkdtemp
        self._ssh = ["ssh", "-T", "-o", f"ControlPath={self._sockets.name}/c", *connection]

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, *arguments: str, stdin: str | None = None, timeout_s: float = 60.0) -> dict[str, Any]:
        """Run one hostctl command and return its JSON object.

        Raises HostUnreachable (no connection, or no answer in `timeout_s`), Refused, LockHeld or NotProven as hostctl
        says, and MigrateError for everything else.
        """
        code, answer = self._run(arguments, stdin or "", timeout_s)
        if code == _MISSING:
            raise MigrateError(f"{self.name}: hostctl is not installed", advice=f"migrate apply --host {self.name}")
        try:
            found = dict(json.loads(answer))
        except ValueError as error:
            said = answer.strip() or f"exit {code}"
            raise MigrateError(f"{self.name}: hostctl {' '.join(arguments)} gave no JSON object: {said}") from error
        if code != 0:
            kind = _ERRORS.get(code, MigrateError)
            raise kind(f"{self.name}: {found.get('error', f'exit {code}')}", advice=str(found.get("advice", "")))
        return found

    def installed(self) -> bool:
        """Whether hostctl is there. Raises HostUnreachable, or MigrateError where sudo refuses."""
        code, _ = self._run(("version",), "", 60.0)
        return code != _MISSING

    def close(self) -> None:
        """End the connection and remove its socket. Calling it again does nothing."""
        if Path(self._sockets.name).exists():
            subprocess.run(  # noqa: S603 - a list built here
                [*self._ssh[:-1], "-O", "exit", self._ssh[-1]], capture_output=True, timeout=10, check=False
            )
            self._sockets.cleanup()

    def _run(self, arguments: tuple[str, ...], stdin: str, timeout_s: float) -> tuple[int, str]:
        password = f"{self._become_password.reveal()}\n" if self._become_password else ""
        remote = shlex.join([*self._become, "sh", "-c", _REMOTE, "hostctl", *arguments])
        try:
            done = subprocess.run(  # noqa: S603 - a list; the remote command line is quoted
                [*self._ssh, remote],
                input=f"{password}{_STDIN_BEGINS}\n{stdin}",
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
                # Ctrl-C goes to the whole foreground group of a terminal; it is ours to answer, not ssh's.
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise self._unreachable(f"no answer to hostctl {' '.join(arguments[:2])} in {timeout_s:.0f} s") from error
        if done.returncode == _SSH_FAILED:
            raise self._unreachable(_last_line(done.stderr))
        mark, _, answer = done.stdout.partition("\n")
        if mark != _REACHED:
            raise MigrateError(
                f"{self.name}: sudo refused: {_last_line(done.stderr)}",
                advice=f"check ansible_become_password of {self.name}, or: ssh to it and try sudo -v",
            )
        return done.returncode, answer

    def _unreachable(self, reason: str) -> HostUnreachable:
        return HostUnreachable(f"{self.name}: {reason}", advice=f"try: ansible -m ping {self.name}")


def _ssh_command(name: str, variables: Mapping[str, Any]) -> list[str]:
    """Options and address. Our own come first, since ssh keeps the first value that it meets; the operator's follow."""
    if variables.get("ansible_connection", "ssh") not in {"ssh", "smart", "ansible.builtin.ssh"}:
        raise SettingsError(
            f"{name}: ansible_connection is {variables['ansible_connection']}; hosts are reached by ssh only"
        )
    if variables.get("ansible_password") or variables.get("ansible_ssh_pass"):
        raise SettingsError(f"{name}: a password for ssh is set", advice="use a key: ansible_ssh_private_key_file")
    options = {
        "ControlMaster": "auto",
        "ControlPersist": str(_KEEP_OPEN_S),
        "BatchMode": "yes",
        "ConnectTimeout": str(_CONNECT_TIMEOUT_S),
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
    }
    command = []
    for option, value in options.items():
        command += ["-o", f"{option}={value}"]
    if key := variables.get("ansible_ssh_private_key_file") or variables.get("ansible_private_key_file"):
        command += ["-i", str(Path(str(key)).expanduser())]
    for extra in ("ansible_ssh_common_args", "ansible_ssh_extra_args"):
        command += shlex.split(str(variables.get(extra) or ""))
    if port := variables.get("ansible_port") or variables.get("ansible_ssh_port"):
        command += ["-p", str(port)]
    if user := variables.get("ansible_user") or variables.get("ansible_ssh_user"):
        command += ["-l", str(user)]
    return [*command, _address(name, variables)]


def _address(name: str, variables: Mapping[str, Any]) -> str:
    address = str(variables.get("ansible_host") or variables.get("ansible_ssh_host") or name)
    if not re.fullmatch(r"[A-Za-z0-9_.:%\[\]][A-Za-z0-9_.:%\[\]-]*", address):
        raise SettingsError(f"{name}: ansible_host {address!r} is no address")
    return address


def _become_command(name: str, variables: Mapping[str, Any], has_password: bool) -> list[str]:
    """sudo, asked to read a password from standard input where there is one; nothing for root."""
    if str(variables.get("ansible_user") or variables.get("ansible_ssh_user") or "") == "root":
        return []
    method = str(variables.get("ansible_become_method") or "sudo")
    if method not in {"sudo", "ansible.builtin.sudo"}:
        raise SettingsError(f"{name}: ansible_become_method is {method}; only sudo is supported")
    program = str(variables.get("ansible_become_exe") or "sudo")
    return [program, "-k", "-S", "-p", "", "--"] if has_password else [program, "-n", "--"]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
