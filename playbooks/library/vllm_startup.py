#!/usr/bin/python
"""Waits until vLLM serves, and says from its log where the time went or what went wrong first."""

from __future__ import annotations

import http.client
import json
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.migrate_failures import Failure, root_cause
from ansible.module_utils.migrate_host import Run, inspect, runner

DOCUMENTATION = r"""
module: vllm_startup
short_description: Waits for vLLM with a named limit
description:
  - Ready means that C(/health) answers 200. The log of the container or unit gives the stages and, after a failure, its
    first root cause.
options:
  container: {type: str, description: Name of the Docker container; it or C(unit).}
  unit: {type: str, description: "Name of the systemd unit, with its suffix; its log is the journal."}
  port: {type: int, required: true, description: Port on the loopback address.}
  timeout_s: {type: int, required: true, description: Longest wait in seconds (vllm_start_timeout_s).}
  explain:
    type: str
    default: ""
    description: Text of another failure; when given, nothing is waited for and the module fails with its root cause.
  failures:
    type: list
    elements: dict
    default: []
    description: The table of failures (migrate/knowledge/failures.yaml); without it the first error is told.
author: [migrate]
"""
EXAMPLES = r"""
- name: Wait until vLLM serves
  vllm_startup:
    container: vllm-vllm-1
    port: 18000
    timeout_s: 300
"""
RETURN = r"""
stage: {type: str, returned: always, description: "The stage reached: start, weights, kv_cache, warm_up or serving."}
seconds: {type: dict, returned: always, description: Seconds that each finished stage took.}
migrate: {type: dict, returned: success, description: Stage and seconds under C(vllm_startup) for the run's report.}
cause: {type: str, returned: failure, description: The first line of the log that tells the root cause.}
advice: {type: str, returned: failure, description: What to change.}
"""

# The line that ends each stage, in order (log texts of vLLM 0.10 to 0.33).
STAGE_ENDS = (
    ("start", re.compile(r"Starting to load model")),
    ("weights", re.compile(r"Model loading took|Loading weights took")),
    ("kv_cache", re.compile(r"KV cache size")),
    ("warm_up", re.compile(r"init engine \(profile, create kv cache, warmup model\) took")),
    ("serving", re.compile(r"Application startup complete")),
)

_POLL_S = 1.0
_SHOW = "LoadState,ActiveState,SubState,NRestarts,Result,ExecMainStartTimestamp"


@dataclass(frozen=True)
class State:
    """What runs. `since` (RFC 3339) is when this start began, `created` from when on its log counts."""

    running: bool
    restarting: bool
    restarts: int
    since: str
    created: str
    out_of_memory: bool


class Container:
    """A Docker container."""

    def __init__(self, name: str, run: Run) -> None:
        self.name, self.shown_by, self._run = f"container is named {name}", f"docker logs {name}", run
        self._name = name

    def state(self) -> State | None:
        """None where there is none of this name."""
        found = inspect(self._run, "container", self._name)
        if found is None:
            return None
        is_now = found["State"]
        running, restarting, oom = is_now["Running"], is_now["Restarting"], bool(is_now.get("OOMKilled"))
        return State(running, restarting, found["RestartCount"], is_now["StartedAt"], found["Created"], oom)

    def log(self, since: str) -> str:
        """Lines that begin with their RFC 3339 time."""
        _, out, err = self._run(["docker", "logs", "--timestamps", "--since", since, self._name])
        return "\n".join(sorted([*out.splitlines(), *err.splitlines()], key=lambda line: line.partition(" ")[0]))


class Unit:
    """A systemd unit, of a process or of Podman's container; its log is the journal's."""

    def __init__(self, name: str, run: Run) -> None:
        self.name, self.shown_by, self._run = f"unit is named {name}", f"journalctl --unit {name}", run
        self._name, self._first = name, ""

    def state(self) -> State | None:
        """None where systemd knows no unit of this name."""
        rc, out, _ = self._run(["systemctl", "show", "--timestamp=unix", f"--property={_SHOW}", self._name])
        found = dict(line.partition("=")[::2] for line in out.splitlines())
        if rc != 0 or found.get("LoadState") != "loaded":
            return None
        began = found.get("ExecMainStartTimestamp", "").lstrip("@")
        since = datetime.fromtimestamp(int(began) if began.isdigit() else time.time(), UTC).isoformat()
        self._first = self._first or since
        state, oom = found.get("ActiveState"), found.get("Result") == "oom-kill"
        running, restarting = state in {"active", "activating"}, found.get("SubState") == "auto-restart"
        return State(running, restarting, int(found.get("NRestarts") or 0), since, self._first, oom)

    def log(self, since: str) -> str:
        """Lines that begin with their RFC 3339 time."""
        asked = ["journalctl", "--unit", self._name, "--output=json", "--no-pager", "--quiet"]
        _, out, _ = self._run([*asked, "--output-fields=MESSAGE", f"--since=@{int(_time(since).timestamp())}"])
        return "\n".join(line for entry in out.splitlines() for line in _entry(entry))


def _entry(text: str) -> list[str]:
    """The lines of one entry of the journal; a message that is no text is a list of its bytes."""
    try:
        entry = json.loads(text)
        at = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, UTC).isoformat(timespec="microseconds")
    except (ValueError, KeyError, TypeError):
        return []
    told = entry.get("MESSAGE") or ""
    told = bytes(told).decode(errors="replace") if isinstance(told, list) else str(told)
    return [f"{at.replace('+00:00', 'Z')} {line}" for line in told.splitlines()]


def seconds_per_stage(log: str, started_at: str) -> dict[str, float]:
    """Seconds of each finished stage, from a log whose lines begin with RFC 3339 times (`docker logs --timestamps`)."""
    last, seconds = _time(started_at), {}
    lines = [line.partition(" ") for line in log.splitlines()]
    for stage, end in STAGE_ENDS:
        stamp = next((stamp for stamp, _, text in lines if end.search(text)), None)
        if stamp is not None:
            reached = max(last, _time(stamp))
            seconds[stage], last = round((reached - last).total_seconds(), 1), reached
    return seconds


def _time(stamp: str) -> datetime:
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", stamp).replace("Z", "+00:00"))


def stage_reached(seconds: dict[str, float]) -> str:
    """The stage that follows the last finished one."""
    names = [stage for stage, _ in STAGE_ENDS]
    done = max((names.index(stage) for stage in seconds), default=-1)
    return names[min(done + 1, len(names) - 1)]


def healthy(port: int) -> bool:
    """Whether /health answers 200 on the loopback address."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait(params: dict[str, Any], engine: Container | Unit) -> dict[str, Any]:
    """Poll until ready, gone or out of time; the result has `failed` where vLLM does not serve."""
    deadline = time.monotonic() + params["timeout_s"]
    restarts = None
    while True:
        found = engine.state()
        if found is None:
            return _failure((f"no {engine.name}", "run the phase `deploy` first"), {})
        restarts = found.restarts if restarts is None else restarts
        if found.running and healthy(params["port"]):
            return {"stage": "serving", "seconds": _seconds(engine, found)}
        gone = not found.running or found.restarting or found.restarts > restarts
        if gone or time.monotonic() > deadline:
            return _diagnosis(params, engine, found, gone=gone)
        time.sleep(_POLL_S)


def _seconds(engine: Container | Unit, found: State) -> dict[str, float]:
    return seconds_per_stage(engine.log(found.since), found.since)


def _diagnosis(params: dict[str, Any], engine: Container | Unit, found: State, *, gone: bool) -> dict[str, Any]:
    """Why it does not serve: out of memory, out of time, or the first cause in the log since its creation."""
    seconds = _seconds(engine, found)
    if not gone:
        late = f"not serving after {params['timeout_s']} s, in stage {stage_reached(seconds)}"
        return _failure((late, f"raise vllm_start_timeout_s, or read the log with {engine.shown_by}"), seconds)
    log = "OOMKilled by the kernel" if found.out_of_memory else engine.log(found.created)
    return _failure(_cause(log, params["failures"], engine), seconds)


def explained(text: str, failures: list[Failure], engine: Container | Unit) -> dict[str, Any]:
    """The failure of another task; what systemd says of a unit is explained by the unit's own log."""
    found = engine.state() if isinstance(engine, Unit) else None
    log = engine.log(found.created) if found else ""
    return _failure(_cause(f"{text}\n{log}", failures, engine), {})


def _cause(text: str, failures: list[Failure], engine: Container | Unit) -> tuple[str, str]:
    """Cause and advice, with the command that shows this log."""
    cause, advice = root_cause(text, failures)
    return cause, advice.replace("the container's log: docker logs", f"its log: {engine.shown_by}")


def _failure(told: tuple[str, str], seconds: dict[str, float]) -> dict[str, Any]:
    cause, advice = told
    message = {"failed": True, "msg": f"vLLM did not start: {cause} ({advice})", "cause": cause, "advice": advice}
    return message | {"stage": stage_reached(seconds), "seconds": seconds}


def main() -> None:
    """Answer Ansible."""
    spec: dict[str, Any] = {
        "container": {"type": "str"},
        "unit": {"type": "str"},
        "port": {"type": "int", "required": True},
        "timeout_s": {"type": "int", "required": True},
        "explain": {"type": "str", "default": ""},
        "failures": {"type": "list", "elements": "dict", "default": []},
    }
    either = [("container", "unit")]
    module = AnsibleModule(spec, supports_check_mode=True, mutually_exclusive=either, required_one_of=either)
    given, run = module.params, runner(module)
    engine = Unit(given["unit"], run) if given["unit"] else Container(given["container"], run)
    result = explained(given["explain"], given["failures"], engine) if given["explain"] else wait(given, engine)
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(changed=False, migrate={"vllm_startup": result}, **result)


if __name__ == "__main__":
    main()
