#!/usr/bin/python
"""Waits until vLLM serves, and says from its log where the time went or what went wrong first."""

from __future__ import annotations

import http.client
import re
import time
from datetime import datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.migrate_host import Run, inspect, runner

DOCUMENTATION = r"""
module: vllm_startup
short_description: Waits for a vLLM container with a named limit
description:
  - Ready means that C(/health) answers 200. The container's log gives the stages and, after a failure, its first
    root cause.
options:
  container: {type: str, required: true, description: Name of the container.}
  port: {type: int, required: true, description: Port on the loopback address.}
  timeout_s: {type: int, required: true, description: Longest wait in seconds (vllm_start_timeout_s).}
  explain:
    type: str
    default: ""
    description: Text of another failure; when given, nothing is waited for and the module fails with its root cause.
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

# First root causes; the wrappers around them ("Engine core initialization failed") say nothing.
CAUSES = (
    (
        r"unrecognized arguments|error: argument |expected (?:one|at least one) argument",
        "correct vllm_args in the inventory",
    ),
    (
        r"bind source path does not exist|not the path to a directory|Can't load the configuration|HFValidationError|"
        r"Repo id must|Invalid repository ID|No such file or directory: '/model|does not appear to have a file named",
        "the model is not at vllm_weights_path; check vllm_weights_source, then run `migrate continue`",
    ),
    (
        r"port is already allocated|address already in use|Address already in use",
        "choose a free vllm_port and gateway_port",
    ),
    (
        r"Free memory on device .* less than desired|CUDA out of memory|OutOfMemoryError",
        "lower gpu-memory-utilization in vllm_args",
    ),
    (
        r"No available memory for the cache blocks|KV cache is needed|No available KV cache",
        "lower max-model-len in vllm_args, or raise the memory for the KV cache in vllm_environment or vllm_args",
    ),
    (r"Cannot allocate memory|MemoryError|not enough memory|out of memory|OOMKilled", "raise vllm_memory_limit"),
    (r"no kernel image is available|is not compatible with the current PyTorch", "use a vLLM image built for this GPU"),
    (
        r"driver on your system is too old|Error 80[34]|unsatisfied condition: cuda",
        "the driver is older than the image's CUDA",
    ),
    (
        r"could not select device driver|failed to discover GPU vendor|Failed to infer device type",
        "set vllm_gpus to none, or provision the GPU",
    ),
    (r"No such image|manifest unknown|pull access denied", "run the phase `stage` first; check vllm_image"),
    (r"Gated repo|401 Client Error", "the model needs a token that this host does not have"),
)
_WRAPPERS = re.compile(r"Engine core initialization failed|EngineCore failed to start|EngineDeadError|Traceback")
_HARMLESS = re.compile(r"\b(?:INFO|WARNING|DEBUG) \d\d-\d\d ")
_ERROR = re.compile(r"\b\w*(?:Error|Exception)\b:|\berror: |\bERROR\b")
_POLL_S = 1.0


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


def root_cause(text: str) -> tuple[str, str]:
    """The first line that tells why (without vLLM's prefixes), and what to change."""
    plain = [_plain(line) for line in text.splitlines() if line.strip() and not _HARMLESS.search(line)]
    lines = [line[:500] for line in plain if line.strip() and not line.startswith(" ")]
    for line in lines:
        for pattern, advice in CAUSES:
            if re.search(pattern, line):
                return line, advice
    told = [line for line in lines if _ERROR.search(line) and not _WRAPPERS.search(line)]
    return (told or lines or ["the log is empty"])[0], "read the container's log: docker logs"


def _plain(line: str) -> str:
    """The line without time, process and logger; the source lines of a traceback keep their indentation."""
    line = re.sub(r"^\d{4}-\d\d-\d\dT\S+Z ", "", line)
    line = re.sub(r"^\([^)]*pid=\d+\) ", "", line)
    return re.sub(r"^(?:ERROR|WARNING|INFO) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?", "", line)


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


def wait(params: dict[str, Any], run: Run) -> dict[str, Any]:
    """Poll until ready, gone or out of time; the result has `failed` where vLLM does not serve."""
    deadline = time.monotonic() + params["timeout_s"]
    restarts = None
    while True:
        found = inspect(run, "container", params["container"])
        if found is None:
            return _failure((f"no container is named {params['container']}", "run the phase `deploy` first"), {})
        restarts = found["RestartCount"] if restarts is None else restarts
        if found["State"]["Running"] and healthy(params["port"]):
            seconds = _seconds(params["container"], found, run)
            return {"stage": "serving", "seconds": seconds}
        gone = not found["State"]["Running"] or found["State"]["Restarting"] or found["RestartCount"] > restarts
        if gone or time.monotonic() > deadline:
            return _diagnosis(params, found, run, gone=gone)
        time.sleep(_POLL_S)


def _log(container: str, since: str, run: Run) -> str:
    _, out, err = run(["docker", "logs", "--timestamps", "--since", since, container])
    return "\n".join(sorted([*out.splitlines(), *err.splitlines()], key=lambda line: line.partition(" ")[0]))


def _seconds(container: str, found: dict[str, Any], run: Run) -> dict[str, float]:
    since = found["State"]["StartedAt"]
    return seconds_per_stage(_log(container, since, run), since)


def _diagnosis(params: dict[str, Any], found: dict[str, Any], run: Run, *, gone: bool) -> dict[str, Any]:
    """Why it does not serve: out of memory, out of time, or the first cause in the log since its creation."""
    seconds = _seconds(params["container"], found, run)
    if not gone:
        late = f"not serving after {params['timeout_s']} s, in stage {stage_reached(seconds)}"
        return _failure((late, "raise vllm_start_timeout_s, or read the log with docker logs"), seconds)
    if found["State"].get("OOMKilled"):
        return _failure(root_cause("OOMKilled by the kernel"), seconds)
    return _failure(root_cause(_log(params["container"], found["Created"], run)), seconds)


def _failure(told: tuple[str, str], seconds: dict[str, float]) -> dict[str, Any]:
    cause, advice = told
    message = {"failed": True, "msg": f"vLLM did not start: {cause} ({advice})", "cause": cause, "advice": advice}
    return message | {"stage": stage_reached(seconds), "seconds": seconds}


def main() -> None:
    """Answer Ansible."""
    spec: dict[str, Any] = {
        "container": {"type": "str", "required": True},
        "port": {"type": "int", "required": True},
        "timeout_s": {"type": "int", "required": True},
        "explain": {"type": "str", "default": ""},
    }
    module = AnsibleModule(spec, supports_check_mode=True)
    if module.params["explain"]:
        result = _failure(root_cause(module.params["explain"]), {})
    else:
        result = wait(module.params, runner(module))
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(changed=False, migrate={"vllm_startup": result}, **result)


if __name__ == "__main__":
    main()
