#!/usr/bin/python
"""Says how far the weights are, and whether the job that fetches them is over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.migrate_fetch import line

DOCUMENTATION = r"""
module: weights_progress
short_description: Says how far the fetch of a model's weights is
description: Read-only. For a task that is tried again until RV(finished) is true.
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


def told(path: Path, job: Path) -> dict[str, Any]:
    """Whether the job is over, and how far it is in words."""
    state = _json(job)
    counted = _json(path.with_name(f".{path.name}.part") / "progress.json")
    # Ansible's own wrapper says that a job was started, and writes the module's answer in place of that at its end.
    over = ("started" not in state and bool(state)) or not job.is_file()
    return {"finished": over, "progress": line(counted) if counted else "not begun"}


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
    module.exit_json(changed=False, **told(Path(module.params["path"]), Path(module.params["job"])))


if __name__ == "__main__":
    main()
