#!/usr/bin/python
"""Says how far the weights are, and whether the job that fetches them is over."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.migrate_fetch import is_held, line

DOCUMENTATION = r"""
module: weights_progress
short_description: Says how far the fetch of a model's weights is
description:
  - Read-only. For a task that is tried again until RV(finished) is true.
  - Fails where nobody works at the fetch any more and it left no result, as after a restart of the host.
options:
  path: {type: path, required: true, description: Where vLLM reads the weights.}
  job: {type: path, required: true, description: File of the asynchronous job that fetches them.}
author: [migrate]
"""
EXAMPLES = r"""
- name: Wait for the weights
  weights_progress:
    path: /var/lib/migrate/weights/phi2
    job: /root/.ansible_async/j1.2
  register: told
  until: told['finished']
"""
RETURN = r"""
finished: {type: bool, returned: always, description: Whether the job is over.}
progress: {type: str, returned: always, description: "Bytes, rate and time left, for a person."}
"""


# Longer than a job takes from its start to its lock, and from its lock's end to its result.
GRACE_S = 60


def told(path: Path, job: Path) -> dict[str, Any]:
    """Whether the job is over, and how far it is in words."""
    state = _json(job)
    counted = _json(path.with_name(f".{path.name}.part") / "progress.json")
    # Ansible's own wrapper says that a job was started, and writes the module's answer in place of that at its end.
    over = ("started" not in state and bool(state)) or not job.is_file()
    return {"finished": over, "progress": line(counted) if counted else "not begun"}


def is_dead(path: Path, job: Path, clock: Callable[[], float], sleep: Callable[[float], None]) -> bool:
    """Whether the job is not over, and nobody held the fetch's lock for so long that nobody will."""
    lock, deadline = path.with_name(f".{path.name}.lock"), clock() + GRACE_S
    while not told(path, job)["finished"] and not is_held(lock):
        if clock() >= deadline:
            return True
        sleep(1)
    return False


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none yet, or it is being written."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def main() -> None:
    """Answer Ansible."""
    spec = {"path": {"type": "path", "required": True}, "job": {"type": "path", "required": True}}
    module = AnsibleModule(spec, supports_check_mode=True)
    path, job = Path(module.params["path"]), Path(module.params["job"])
    if is_dead(path, job, time.monotonic, time.sleep):
        why = "the fetch of the weights ended without a result: the host was restarted, or it was killed"
        module.fail_json(
            msg=f"{why}; what was fetched is kept: migrate continue", **told(path, job) | {"finished": True}
        )
    module.exit_json(changed=False, **told(path, job))


if __name__ == "__main__":
    main()
