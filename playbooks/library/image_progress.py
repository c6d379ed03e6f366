#!/usr/bin/python
"""Says how far the build of an image is, and what ended it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.migrate_fetch import is_held

DOCUMENTATION = r"""
module: image_progress
short_description: Reads how far the build of an image is
description:
  - Looks at C(build.log) and, once the build is over, at C(ended) in the build folder.
  - Fails with the cause and what to do where the build ended with another status than 0.
  - Fails where nobody works at the build any more and it left no result, as after a restart of the host.
options:
  path: {type: path, required: true, description: Build folder.}
author: [migrate]
"""
EXAMPLES = r"""
- name: Wait for the build
  image_progress:
    path: /var/lib/migrate/vllm-image
  register: progress
  until: progress['finished']
  retries: 60
  delay: 60
"""
RETURN = r"""
finished: {type: bool, returned: always, description: Whether the build is over.}
progress: {type: str, returned: always, description: Minutes since the build began, and the log's last line.}
cause: {type: str, returned: failure, description: The line that tells why the build ended.}
advice: {type: str, returned: failure, description: What to change.}
"""

TIMED_OUT = 124
# Longer than a build takes from its start to its lock: it looks for its client first.
GRACE_S = 60
_TAIL = 1 << 20
# What ends a build, and what to do: our own checks say it themselves, the compilers' deaths do not.
CAUSES = (
    (
        r"Killed signal terminated program|died due to signal 9|\bKilled\b|exit code: 137|cannot allocate memory",
        "the kernel ended a compiler for want of memory: set image_max_jobs to half (the plan says how many it was)",
    ),
    (r"No space left on device|no space left on device", "make room where Docker keeps its data: docker system df"),
    (
        r"Temporary failure in name resolution|Could not resolve|Connection refused|certificate verify failed|"
        r"CERTIFICATE_VERIFY_FAILED|Failed to connect|Read timed out",
        "the build does not reach the index: see image_pip_config, image_ca_file and image_network",
    ),
    (
        r"Could not find a version that satisfies|No matching distribution found",
        "the index does not have it: see image_torch_index, image_pip_config and image_vllm_version",
    ),
    (
        r"Unsupported gpu architecture|Unknown CUDA arch|No supported CUDA architectures|Set TORCH_CUDA_ARCH_LIST",
        "the CUDA of image_base does not know a card of image_arch_list: 12.8 is the first with 12.0",
    ),
    (r"manifest unknown|pull access denied|failed to resolve source metadata", "image_base cannot be pulled"),
)
OURS = re.compile(r"migrate: (?!skipped|\w+ is inconclusive)(.+)")
_PREFIX = re.compile(r"^#\d+ (?:\d+\.\d+ )?")
_ERROR = re.compile(r"\b[Ee]rror\b|ERROR|FAILED")


def causes_end(log: str, code: int) -> tuple[str, str]:
    """The line that tells why the build ended with a status other than 0, and what to do."""
    lines = [_PREFIX.sub("", line).strip() for line in log.splitlines()]
    if code == TIMED_OUT:
        return _last(lines), "raise image_build_timeout_s; what is built already is not built again"
    ours = [found[1] for line in lines if (found := OURS.match(line))]
    if ours:
        return ours[0], "change that, then migrate continue (or plan again where a setting changes)"
    for pattern, advice in CAUSES:
        if found := next((line for line in lines if re.search(pattern, line)), None):
            return found[:300], advice
    error = next((line for line in lines if _ERROR.search(line)), _last(lines))
    return error[:300], "read build.log in the build folder on the host"


def _last(lines: list[str]) -> str:
    return next((line for line in reversed(lines) if line), "the log is empty")


def look(path: Path, now: float) -> dict[str, Any]:
    """How far the build is at the moment `now` (seconds since 1970); `code` is None while it runs."""
    log, began, ended = _tail(path / "build.log"), path / "began", path / "ended"
    minutes = int((now - began.stat().st_mtime) // 60) if began.exists() else 0
    line = _last([_PREFIX.sub("", line).strip() for line in log.splitlines()])[:120]
    code = int(ended.read_text()) if ended.exists() else None
    return {"finished": code is not None, "code": code, "progress": f"{minutes} min, {line}", "log": log}


def is_dead(path: Path, clock: Callable[[], float], sleep: Callable[[float], None]) -> bool:
    """Whether the build has not ended, and nobody held its lock for so long that nobody will."""
    deadline = clock() + GRACE_S
    while not (path / "ended").exists() and not is_held(path / "lock"):
        if clock() >= deadline:
            return True
        sleep(2)
    return False


def _tail(path: Path) -> str:
    """The log's last mebibyte; empty where it has not begun."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def main() -> None:
    """Run the module."""
    spec = {"path": {"type": "path", "required": True}}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    path = Path(module.params["path"])
    dead = is_dead(path, time.monotonic, time.sleep)
    found = look(path, time.time())
    log, code = found.pop("log"), found.pop("code")
    if code:
        cause, advice = causes_end(log, code)
        told = f"{found['progress'].partition(',')[0]}: {cause}; {advice}; log: {path}/build.log"
        module.fail_json(msg=told, cause=cause, advice=advice, **found)
    if dead:
        cause, advice = "the build ended without a result: the host was restarted, or it was killed", "migrate continue"
        told = f"{cause}; what is built already is not built again: {advice}; log: {path}/build.log"
        module.fail_json(msg=told, cause=cause, advice=advice, **found | {"finished": True})
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
