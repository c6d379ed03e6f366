"""Runs one role by Ansible on this machine, with apt and dpkg in a root of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests.playbooks.apt_root import AptRoot
from tests.playbooks.conftest import PLAYBOOKS

Play = Callable[..., dict[str, Any]]


def player(apt: AptRoot, folder: Path) -> Play:
    """Runs a role, `ROLE` or `ROLE/TASKS[+TASKS]`; returns what ended it (`msg`, else empty) and `facts` by name."""
    return partial(_run, apt, folder)


def _run(
    apt: AptRoot, folder: Path, role: str, *more: str, facts: tuple[str, ...] = (), **variables: Any
) -> dict[str, Any]:
    told = folder / "told.json"
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "environment": {key: value for key, value in apt.environment.items() if key.startswith(("APT", "DPKG"))},
        "vars": variables | {"ansible_python_interpreter": sys.executable},
        "tasks": [_tasks(role, facts, told)],
    }
    (folder / "play.yml").write_text(yaml.safe_dump([play], sort_keys=False))
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), *more, "-i", "localhost,"]
    environment = apt.environment | {
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_CONFIG": str(PLAYBOOKS.parent / "ansible.cfg"),
        "ANSIBLE_ROLES_PATH": f"{folder / 'roles'}:{PLAYBOOKS / 'roles'}",
        "ANSIBLE_LIBRARY": str(PLAYBOOKS / "library"),
        "ANSIBLE_MODULE_UTILS": str(PLAYBOOKS / "module_utils"),
    }
    argv.append(str(folder / "play.yml"))
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(told.read_text())
    return answer


def _tasks(role: str, facts: tuple[str, ...], told: Path) -> dict[str, Any]:
    """The role's tasks, and what is written down after them."""
    asked = ", ".join(f"'{name}': {name} | default({{}})" for name in facts)
    picked = "{{ {'msg': why | default(''), 'facts': {" + asked + "}} | to_json }}"
    tell: dict[str, Any] = {"name": "Tell", "check_mode": False}
    tell["ansible.builtin.copy"] = {"content": picked, "dest": str(told), "mode": "0600"}
    failed = tell | {"vars": {"why": "{{ ansible_failed_result['msg'] }}"}}
    name, _, tasks = role.partition("/")
    files = tasks.split("+") if tasks else ["main"]
    include = [{"name": "Run", "ansible.builtin.include_role": {"name": name, "tasks_from": file}} for file in files]
    return {"name": "Run it", "block": [*include, tell], "rescue": [failed]}
