"""Runs Ansible playbooks through ansible-runner, and reads what happened out of its events.

A return code is never the answer: rc 4 means both "unreachable" and "malformed playbook", and a missing rc
means that the run was interrupted (ansible-core `errors/__init__.py`, ansible-runner `runner.py`).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import ansible_runner

from migrate import bundled
from migrate.errors import HostUnreachable, MigrateError
from migrate.gate import Outcome, Verdict
from migrate.inventory import Inventory

_CHECK_TASK = "Run the checks"
_TEMPLATE = ("{{", "{%", "{#")
_KEPT_ENVIRONMENT = ("HOME", "LANG", "LC_ALL", "PATH", "SSH_AUTH_SOCK", "TERM", "USER")


@dataclass(slots=True)
class PlaybookResult:
    """What one playbook did. `changed` counts tasks, `failures` are one line each, `facts` is discover's result.

    `changes` has an entry for each changed task: its role, its name, and the packages that it names.
    """

    status: str = ""
    changed: int = 0
    changes: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    unreachable: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True when every task ran to its end; the gate still decides from the verdicts."""
        return self.status == "successful" and not self.failures and not self.unreachable


class Playbooks(Protocol):
    """The seam at which tests put a fake."""

    def run(self, name: str, variables: Mapping[str, Any], say: Callable[[str], None]) -> PlaybookResult:
        """Run `playbooks/<name>.yml`. Raises HostUnreachable or MigrateError; a failed task is in the result."""


@dataclass(frozen=True, slots=True)
class AnsiblePlaybooks:
    """Runs the bundled playbooks against one inventory; `artifacts` keeps each run's output (None: nothing kept)."""

    inventory: Inventory
    artifacts: Path | None = None

    def run(
        self, name: str, variables: Mapping[str, Any], say: Callable[[str], None], *, check: bool = False
    ) -> PlaybookResult:
        """Run `playbooks/<name>.yml` in a fresh 0700 directory, with `check` only as a look at what it would change.

        Raises HostUnreachable or MigrateError.
        """
        result = PlaybookResult()
        with tempfile.TemporaryDirectory(prefix="migrate-") as private:
            archive = Path(private) / "checks.pyz"
            archive.write_bytes(bundled.checks())
            extra = _written({**variables, "check_archive": str(archive)}, Path(private))
            options = ["-e", f"@{extra}", *(["--check"] if check else [])]
            runner = self._start(name, options, Path(private), _collector(result, say))
            result.status = str(runner.status)
            self._keep(name, Path(private))
        if result.unreachable:
            raise HostUnreachable(f"playbook {name}: {result.unreachable[0]}", advice="check: migrate status")
        if not result.ok and not result.failures:
            raise MigrateError(f"playbook {name} ended as {result.status!r} without a failed task: {_tail(runner)}")
        return result

    def _start(self, name: str, options: list[str], private: Path, collect: Callable[..., bool]) -> Any:
        if self.inventory.vault_password_file:
            options += ["--vault-password-file", str(self.inventory.vault_password_file)]
        return ansible_runner.run(
            private_data_dir=str(private),
            playbook=str(bundled.root() / "playbooks" / f"{name}.yml"),
            inventory=str(self.inventory.path),
            cmdline=shlex.join(options),
            envvars=_environment(),
            suppress_env_files=True,
            quiet=True,
            event_handler=collect,
            cancel_callback=lambda: False,
        )

    def _keep(self, name: str, private: Path) -> None:
        if self.artifacts is None:
            return
        self.artifacts.mkdir(parents=True, exist_ok=True, mode=0o700)
        number = len(list(self.artifacts.iterdir())) + 1
        for output in private.glob("artifacts/*/stdout"):
            shutil.copy(output, self.artifacts / f"{number:02d}-{name}.txt")


def _written(variables: Mapping[str, Any], private: Path) -> Path:
    """The extra-vars in a file that nobody else reads."""
    extra = private / "variables.json"
    extra.touch(mode=0o600)
    extra.write_text(json.dumps(_literal(dict(variables))), encoding="utf-8")
    return extra


def _literal(value: Any) -> Any:
    """The value with every text that reads as a template marked as none (`__ansible_unsafe`).

    What the inventory templates was resolved before; the rest comes from the host's own files, and a host must not be
    able to run anything on the controller.
    """
    if isinstance(value, Mapping):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_literal(item) for item in value]
    return {"__ansible_unsafe": value} if isinstance(value, str) and any(m in value for m in _TEMPLATE) else value


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    return kept | {
        "PATH": f"{Path(bundled.tool('')).resolve()}:{kept.get('PATH', os.defpath)}",
        "ANSIBLE_CONFIG": str(bundled.root() / "ansible.cfg"),
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_ROLES_PATH": str(bundled.root() / "playbooks" / "roles"),
        "ANSIBLE_LIBRARY": str(bundled.root() / "playbooks" / "library"),
        "ANSIBLE_NOCOLOR": "1",
    }


def _collector(result: PlaybookResult, say: Callable[[str], None]) -> Callable[[dict[str, Any]], bool]:
    def collect(event: dict[str, Any]) -> bool:
        data = event.get("event_data") or {}
        kind = str(event.get("event"))
        name = str(data.get("name", ""))
        if kind == "playbook_on_task_start" and "Validating arguments against arg spec" not in name:
            say(name)
        elif kind == "runner_retry" and (progress := (data.get("res") or {}).get("progress")):
            say(f"{data.get('task')}: {progress}")
        elif kind.startswith(("runner_on_", "runner_item_on_")):
            _read_task(kind, data, result)
        return True

    return collect


def _read_task(kind: str, data: Mapping[str, Any], result: PlaybookResult) -> None:
    answer = data.get("res") or {}
    task = str(data.get("task", ""))
    if kind == "runner_on_unreachable":
        result.unreachable.append(_one_line(answer.get("msg", "unreachable")))
    elif kind == "runner_on_failed" and not data.get("ignore_errors"):
        result.failures.append(f"{task}: {_reason(answer)}")
    if kind.startswith("runner_item_on_") and task.endswith(_CHECK_TASK):
        result.verdicts.append(_verdict(answer))
    if kind == "runner_on_ok":
        result.changed += bool(answer.get("changed"))
        result.changes += [_change(data, answer)] if answer.get("changed") else []
        result.facts.update(answer.get("host_facts") or {})
        if isinstance(answer.get("migrate"), dict):
            result.results.update(answer["migrate"])


def _change(data: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    packages = answer.get("changes")
    name = str(data.get("task", "")).rpartition(" : ")[2]
    return {"role": str(data.get("role", "")), "task": name, "packages": packages if isinstance(packages, list) else []}


def _verdict(answer: Mapping[str, Any]) -> Verdict:
    name = str(answer.get("item") or answer.get("check_name") or "unknown check")
    lines = str(answer.get("stdout", "")).strip().splitlines()
    try:
        return Verdict.parse(json.loads(lines[-1]))
    except (IndexError, KeyError, ValueError):
        detail = _one_line(answer.get("stderr") or answer.get("msg") or answer.get("stdout") or "no output")
        return Verdict(name, Outcome.ERROR, "a verdict", "none", detail, f"run checks/{name}.py on the host by hand")


def _reason(answer: Mapping[str, Any]) -> str:
    return _one_line(answer.get("msg") or answer.get("stderr") or answer.get("stdout") or "failed without a message")


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:600]


def _tail(runner: Any) -> str:
    try:
        return _one_line(runner.stdout.read()[-400:])
    except (OSError, ansible_runner.exceptions.AnsibleRunnerException):
        return "no output"
