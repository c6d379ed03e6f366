#!/usr/bin/python
"""Takes one service's entry out of a compose file, or puts the recorded text back."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: compose_entry
short_description: Removes one service from a compose file and leaves every other line as it is
description:
  - The text is edited by lines, so comments and order stay. The result is read again; unless everything but the entry
    means the same as before, the file is not touched.
  - C(state=present) puts the text of O(recorded) back, if the file is still what the removal left.
options:
  path: {type: path, required: true, description: The compose file.}
  service: {type: str, required: true, description: The service.}
  state: {type: str, default: present, choices: [present, absent], description: Restore or remove the entry.}
  recorded: {type: path, description: Copy of the file with the entry; required for C(state=present).}
author: [migrate]
"""
EXAMPLES = r"""
- name: Take Triton out of the compose file
  compose_entry:
    path: /opt/triton/compose.yml
    service: triton
    state: absent
"""
RETURN = r"""
line: {type: int, returned: changed, description: Line of the file at which the entry began.}
"""


class Surprise(Exception):
    """The file is not what a removal by lines can be trusted with; the text says why."""


def without(text: str, service: str) -> tuple[str, int]:
    """The text without the service's entry, and the line (from 1) at which it began; raises Surprise.

    Comments above the entry stay: they may belong to the file rather than to the entry.
    """
    lines = text.splitlines(keepends=True)
    begin, end = _entry(lines, service)
    rest = [*lines[:begin], *lines[end:]]
    if len(yaml.safe_load(text)["services"]) == 1:
        rest = [re.sub(r"^services:", "services: {}", line) for line in rest]
    result = "".join(rest)
    _prove(text, result, service)
    return result, begin + 1


def _entry(lines: list[str], service: str) -> tuple[int, int]:
    """Index of the entry's first line, and of the first line after it."""
    key = re.compile(rf"""^( +)(?:{re.escape(service)}|"{re.escape(service)}"|'{re.escape(service)}'):\s*(?:#.*)?$""")
    services = next((i for i, line in enumerate(lines) if re.match(r"services:\s*(#.*)?$", line)), None)
    if services is None:
        raise Surprise("there is no line `services:`")
    for begin in range(services + 1, len(lines)):
        if re.match(r"[^\s#]", lines[begin]):
            break
        if found := key.match(lines[begin]):
            return begin, _end(lines, begin, len(found[1]))
    raise Surprise(f"there is no line `{service}:` of its own under `services:`")


def _end(lines: list[str], begin: int, indent: int) -> int:
    """The entry ends after its last line that is indented deeper than its key."""
    end = begin + 1
    for number in range(begin + 1, len(lines)):
        line = lines[number]
        if line.strip() and len(line) - len(line.lstrip(" ")) <= indent:
            break
        if line.strip():
            end = number + 1
    return end


def _prove(before: str, after: str, service: str) -> None:
    """Everything but the entry must mean the same, and nothing left may need the entry."""
    try:
        expected, found = yaml.safe_load(before), yaml.safe_load(after)
    except yaml.YAMLError as error:
        raise Surprise(f"the rest does not stand without the entry: {error}") from error
    expected["services"].pop(service, None)
    if found != expected:
        raise Surprise("removing the entry by lines would change other parts of the file")
    needing = sorted(name for name, other in found["services"].items() if _needs(other or {}, service))
    if needing:
        raise Surprise(f"other services need it: {', '.join(needing)}")


def _needs(other: dict[str, Any], service: str) -> bool:
    extends = other.get("extends")
    base = extends.get("service") if isinstance(extends, dict) else extends
    shared = [other.get(key) for key in ("network_mode", "ipc", "pid")]
    linked = [str(link).partition(":")[0] for link in other.get("links") or []]
    return service in (other.get("depends_on") or []) or service in (base, *linked) or f"service:{service}" in shared


def holds(text: str, service: str) -> bool:
    """Whether the file has an entry for the service."""
    return service in ((yaml.safe_load(text) or {}).get("services") or {})


def restored(text: str, recorded: str, service: str) -> str:
    """The recorded text, if the file is that text or that text without the entry; raises Surprise otherwise."""
    if text not in (recorded, without(recorded, service)[0]):
        raise Surprise("it was edited since the entry was removed; put the entry back by hand from the recorded copy")
    return recorded


def replace(path: Path, text: str) -> None:
    """Replace the file in one rename; owner and mode stay."""
    status, temporary = path.stat(), path.with_name(f".{path.name}.new")
    temporary.touch(mode=0o600)
    temporary.write_text(text)
    temporary.chmod(status.st_mode & 0o7777)
    os.chown(temporary, status.st_uid, status.st_gid)
    temporary.replace(path)


def change(params: dict[str, Any]) -> tuple[bool, int | None]:
    """Bring the file into the wanted state; returns (changed, line of the removed entry). Raises Surprise."""
    path, service = Path(params["path"]), params["service"]
    text = path.read_text()
    if params["state"] == "present":
        wanted, line = restored(text, Path(params["recorded"]).read_text(), service), None
    elif not holds(text, service):
        return False, None
    else:
        wanted, line = without(text, service)
    if wanted != text:
        replace(path, wanted)
    return wanted != text, line


def main() -> None:
    """Answer Ansible."""
    spec: dict[str, Any] = {
        "path": {"type": "path", "required": True},
        "service": {"type": "str", "required": True},
        "state": {"type": "str", "default": "present", "choices": ["present", "absent"]},
        "recorded": {"type": "path"},
    }
    module = AnsibleModule(spec, required_if=[("state", "present", ["recorded"])])
    try:
        changed, line = change(module.params)
    except (Surprise, OSError, yaml.YAMLError) as error:
        module.fail_json(msg=f"{module.params['path']} was left as it is: {error}")
    module.exit_json(changed=changed, line=line)


if __name__ == "__main__":
    main()
