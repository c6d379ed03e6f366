#!/usr/bin/python
"""Reads logs and states of a host for `migrate doctor`, and gives back the lines that the table of failures knows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.migrate_failures import Text, first_error, search

DOCUMENTATION = r"""
module: doctor_evidence
short_description: Reads logs and states of a host and finds known failures in them
description:
  - Read-only, in check mode too. Logs stay on the host; only lines that a row of the table finds are given back.
options:
  services: {type: dict, default: {}, description: "vllm, gateway or triton to the name of its container or unit."}
  units: {type: list, elements: str, default: [], description: Which of the services are systemd units.}
  gpus: {type: bool, default: true, description: Whether the host is meant to have GPUs.}
  tools: {type: str, default: "", description: A folder that is looked into first for commands.}
  disks: {type: list, elements: path, default: [], description: Folders whose file systems must not be full.}
  run: {type: list, elements: str, default: [], description: What the run's failed phase said.}
  failures: {type: list, elements: dict, required: true, description: The table of failures.}
author: [migrate]
"""
EXAMPLES = r"""
- name: Read logs and states
  doctor_evidence:
    services: {vllm: vllm-vllm-1, triton: triton-triton-1}
    failures: "{{ doctor_failures }}"
"""
RETURN = r"""
migrate: {type: dict, returned: always, description: "Under C(doctor): matches, services, leftovers, unread."}
"""

COMMAND_TIMEOUT_S = 20
LONGEST_OUTPUT = 8 << 20
LOG_LINES = 4000
KERNEL_LINES = 20_000
LEAST_FREE_BYTES = 1 << 30
# A container that was started again so lately has not said yet why; its start before has.
_YOUNG = timedelta(minutes=10)
_OF_INTEREST = re.compile(r"NVRM|Xid|nvidia|nouveau|[Oo]ut of memory|oom|EXT4-fs|XFS|read-only|space left|rejected")
_OF_A_CHECK = re.compile(r"migrate-[a-z-]+-\d+")
# What the role gpu_driver takes away after its reboot.
_OF_A_REBOOT = {
    "/var/lib/migrate/provision/live_restore.json": "a reboot was begun and Docker's live-restore is still off",
    "/etc/systemd/system/migrate-serving.service": "a reboot was begun and the order of boots is still changed",
}
_ADMIN_FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Run = Callable[[list[str]], tuple[int, str]]


def evidence(params: dict[str, Any], run: Run, now: datetime) -> dict[str, Any]:
    """Everything that is known to have gone wrong, how the services are, what is left over, what could not be read."""
    unread: dict[str, str] = {}
    services, texts = {}, _machine(params, run, unread)
    for role, name in params["services"].items():
        read = _unit if role in params["units"] else _container
        services[role], told = read(role, name, run, now)
        texts += told
    return {
        "matches": search(texts, params["failures"], now.timestamp()),
        "services": services,
        "leftovers": _leftovers(run),
        "unread": unread,
    }


def _machine(params: dict[str, Any], run: Run, unread: dict[str, str]) -> list[Text]:
    """What disks, kernel, driver, systemd, Docker and the run's own journal say."""
    texts = [
        _text("machine", "df", "\n".join(map(full, params["disks"]))),
        _text("run", "the journal of the run", "\n".join(params["run"])),
        _text("kernel", "journalctl -k -b", _kernel(run, unread)),
        _text("systemd", "systemctl --failed", _said(run, unread, "systemctl", ["list-units", "--failed", "--plain"])),
        _text("engine", "docker info", _engine(run, gpus=params["gpus"])),
    ]
    return texts + ([_text("nvidia-smi", "nvidia-smi", run(["nvidia-smi"])[1])] if params["gpus"] else [])


def _text(place: str, where: str, text: str) -> Text:
    return {"place": place, "where": where, "text": text}


def full(path: str) -> str:
    """A line where the file system of a folder has less left than 1 GiB and than 5 %, or no inode; else nothing."""
    try:
        room = os.statvfs(path)
    except OSError:
        return ""
    free = room.f_bavail * room.f_frsize
    if free >= min(LEAST_FREE_BYTES, room.f_blocks * room.f_frsize // 20) and (room.f_favail or not room.f_files):
        return ""
    return f"no space left: {path} has {free >> 20} MiB and {room.f_favail} inodes free"


def _kernel(run: Run, unread: dict[str, str]) -> str:
    """The kernel's lines of this boot that may matter, with their time where the journal has them."""
    rc, out = run(["journalctl", "-k", "-b", "-o", "short-unix", "--no-pager", "-n", str(KERNEL_LINES)])
    if rc != 0:
        rc, out = run(["dmesg"])
    if rc != 0:
        unread["the kernel's log"] = out.strip()[:200]
    return "\n".join(line for line in out.splitlines() if _OF_INTEREST.search(line))


def _said(run: Run, unread: dict[str, str], program: str, arguments: list[str]) -> str:
    rc, out = run([program, *arguments, "--no-legend", "--no-pager"])
    if rc != 0:
        unread[program] = out.strip()[:200]
    return out


def _engine(run: Run, *, gpus: bool) -> str:
    """What Docker says of itself where that is trouble."""
    rc, out = run(["docker", "info", "--format", "{{json .}}"])
    try:
        told = json.loads(out)
    except ValueError:
        return out if rc else ""
    lines = [str(line) for line in told.get("ServerErrors") or []]
    devices = [str(device.get("ID", "")) for device in told.get("DiscoveredDevices") or []]
    if gpus and rc == 0 and "nvidia" not in (told.get("Runtimes") or {}) and not any(map(_is_card, devices)):
        lines.append("Docker has no nvidia runtime and no CDI device")
    return "\n".join(lines)


def _is_card(device: str) -> bool:
    return device.startswith("nvidia.com/gpu")


def _container(role: str, name: str, run: Run, now: datetime) -> tuple[dict[str, Any], list[Text]]:
    """A container's state, and the texts of its last start."""
    rc, out = run(["docker", "container", "inspect", name])
    try:
        found = json.loads(out)[0] if rc == 0 else None
    except (ValueError, LookupError):
        found = None
    if found is None:
        return {"name": name, "exists": False}, []
    state = found["State"]
    since = _since(state, int(found.get("RestartCount") or 0), now)
    _, log = run(["docker", "logs", "--timestamps", "--tail", str(LOG_LINES), *since, name])
    told = _state(state["Status"], state["ExitCode"], bool(state["OOMKilled"]), int(found.get("RestartCount") or 0))
    texts = [_text("engine", f"docker inspect {name}", str(state.get("Error") or ""))]
    return _service(name, told, _text(role, f"docker logs {name}", log), texts)


def _since(state: dict[str, Any], restarts: int, now: datetime) -> list[str]:
    """The last start only, but for one so young that the start before it is the one that tells."""
    started = str(state.get("StartedAt") or "")
    if started.startswith("0001"):
        return []
    if restarts and state["Status"] == "running" and now - _time(started) < _YOUNG:
        return []
    return ["--since", started]


def _time(stamp: str) -> datetime:
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", stamp).replace("Z", "+00:00"))


def _unit(role: str, name: str, run: Run, now: datetime) -> tuple[dict[str, Any], list[Text]]:
    """The same of a systemd unit."""
    names = "LoadState,ActiveState,SubState,ExecMainCode,ExecMainStatus,NRestarts,Result,InvocationID"
    _, out = run(["systemctl", "show", name, f"--property={names}"])
    found = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
    if found.get("LoadState") != "loaded":
        return {"name": name, "exists": False}, []
    status = {"active": "running", "activating": "restarting"}.get(found.get("ActiveState", ""), "exited")
    code = int(found.get("ExecMainStatus") or 0)
    code += 128 if found.get("ExecMainCode") in {"2", "3"} else 0  # CLD_KILLED, CLD_DUMPED: the status is a signal
    told = _state(status, code, found.get("Result") == "oom-kill", int(found.get("NRestarts") or 0))
    start = found.get("InvocationID")
    only = [f"_SYSTEMD_INVOCATION_ID={start}"] if start else []
    _, log = run(["journalctl", "--unit", name, "-o", "cat", "--no-pager", "-n", str(LOG_LINES), *only])
    where = f"journalctl --unit {name}"
    return _service(name, told, _text(role, where, log), [_text("engine", where, log)])


def _state(status: str, code: int, oom: bool, restarts: int) -> dict[str, Any]:
    return {"status": status, "exit_code": code, "oom_killed": oom, "restarts": restarts}


def _service(name: str, state: dict[str, Any], log: Text, texts: list[Text]) -> tuple[dict[str, Any], list[Text]]:
    """`first_error` is there where the service does not run as it was started. The log's place is the role."""
    calm = state["status"] == "running" and not state["restarts"] and not state["oom_killed"]
    line = (
        f"state {state['status']}, exit code {state['exit_code']}, "
        f"OOMKilled {str(state['oom_killed']).lower()}, restarts {state['restarts']}"
    )
    error = "" if calm else first_error(log["text"])
    service = {"name": name, "exists": True, "where": log["where"], **state, "first_error": error}
    texts = [*texts, log, _text("state", name, "" if calm else line)]
    return service, [text | {"role": log["place"]} for text in texts]


def _leftovers(run: Run) -> list[dict[str, str]]:
    """Containers of checks that outlived what started them, and files of a reboot that nobody came back from."""
    rc, out = run(["docker", "ps", "--all", "--filter", "name=migrate-", "--format", "{{.Names}}\t{{.Status}}"])
    rows = [line.partition("\t") for line in out.splitlines()] if rc == 0 else []
    ours = [(name, status) for name, _, status in rows if _OF_A_CHECK.fullmatch(name)]
    files = [(path, why) for path, why in _OF_A_REBOOT.items() if os.path.lexists(path)]
    return [
        *({"kind": "container", "name": name, "detail": status[:80]} for name, status in ours),
        *({"kind": "file", "name": path, "detail": why} for path, why in files),
    ]


def bounded(tools: str) -> Run:
    """Runs commands in the C locale, output and errors as they come: at most 8 MiB and 20 s of them."""
    path = f"{tools}:{os.environ.get('PATH', '')}:{_ADMIN_FOLDERS}"
    environment = os.environ | {"LC_ALL": "C", "PATH": path}

    def run(argv: list[str]) -> tuple[int, str]:
        program = shutil.which(argv[0], path=path)
        if program is None:
            return 127, f"{argv[0]}: No such file or directory"
        with (
            subprocess.Popen(  # noqa: S603 - a list, no shell
                [program, *argv[1:]],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
            ) as process
        ):
            late = threading.Timer(COMMAND_TIMEOUT_S, process.kill)
            late.start()
            out = process.stdout.read(LONGEST_OUTPUT) if process.stdout else b""
            if process.stdout and process.stdout.read(1):
                process.kill()
            late.cancel()
        return process.returncode, out.decode(errors="replace")

    return run


def main() -> None:
    """Answer Ansible."""
    spec: dict[str, Any] = {
        "services": {"type": "dict", "default": {}},
        "units": {"type": "list", "elements": "str", "default": []},
        "gpus": {"type": "bool", "default": True},
        "tools": {"type": "str", "default": ""},
        "disks": {"type": "list", "elements": "path", "default": []},
        "run": {"type": "list", "elements": "str", "default": []},
        "failures": {"type": "list", "elements": "dict", "required": True},
    }
    module = AnsibleModule(spec, supports_check_mode=True)
    now = datetime.now(UTC)
    found = evidence(module.params, bounded(module.params["tools"]), now)
    module.exit_json(changed=False, migrate={"doctor": found})


if __name__ == "__main__":
    main()
