#!/usr/bin/python
"""Merges settings into Docker's daemon.json and leaves everything else in it as it is."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.migrate_host import Run, runner, write_private

DOCUMENTATION = r"""
module: daemon_json
short_description: Sets single keys of a JSON file, with a record of what was there before
description:
  - The result is read by C(dockerd --validate) where dockerd has that option, before it replaces the file.
  - C(state=restored) puts the recorded text back where the file is still what this module wrote, else only its keys.
options:
  path: {type: path, default: /etc/docker/daemon.json, description: The file; it may be absent.}
  state: {type: str, default: present, choices: [present, restored], description: Do, or undo.}
  set: {type: dict, default: {}, description: Key with dots between levels -> value that it must have.}
  add: {type: dict, default: {}, description: Key with dots between levels -> value that it gets where it is absent.}
  record: {type: path, required: true, description: File that keeps what was there before, for the undo.}
author: [migrate]
"""
EXAMPLES = r"""
- name: Let containers outlive the engine
  daemon_json:
    set: {live-restore: true}
    record: /var/lib/migrate/provision/docker_engine.json
"""
RETURN = r"""
keys: {type: list, elements: str, returned: always, description: Keys that were changed.}
"""

Json = dict[str, Any]


class Refused(Exception):
    """The file cannot be merged into; the text says why. Nothing was changed."""


def present(params: Json, run: Run, *, dry: bool) -> tuple[str, str, list[str]]:
    """Merge; returns (text before, text after, changed keys). Raises Refused."""
    path, record = Path(params["path"]), Path(params["record"])
    text = path.read_text() if path.is_file() else ""
    before = _parsed(text, path)
    after = copy.deepcopy(before)
    wanted = {**{k: v for k, v in params["add"].items() if _get(before, k) is None}, **params["set"]}
    moved = [key for key, value in wanted.items() if _get(before, key) != value]
    for key in moved:
        _put(after, key, wanted[key])
    if not moved:
        return text, text, []
    result = json.dumps(after, indent=2) + "\n"
    if not dry:
        known = json.loads(record.read_text()) if record.is_file() else {"text": text, "before": {}}
        known["before"] = {key: _get(before, key) for key in moved} | known["before"]
        write_private(record, json.dumps(known | {"written": result}) + "\n")
        _replace(path, result, run)
    return text, result, moved


def restored(params: Json, run: Run, *, dry: bool) -> tuple[str, str, list[str]]:
    """Take the merge back; returns (text before, text after, changed keys). Raises Refused."""
    path, record = Path(params["path"]), Path(params["record"])
    if not record.is_file():
        return "", "", []
    told = json.loads(record.read_text())
    text = path.read_text() if path.is_file() else ""
    result = told["text"] if text == told["written"] else _without(_parsed(text, path), told["before"])
    if not dry:
        if result:
            _replace(path, result, run)
        else:
            path.unlink(missing_ok=True)
        record.unlink()
    return text, result, sorted(told["before"])


def _without(now: Json, before: Json) -> str:
    for key, value in before.items():
        _put(now, key, value)
    return json.dumps(now, indent=2) + "\n"


def _parsed(text: str, path: Path) -> Json:
    try:
        found = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise Refused(f"{path} is no JSON ({error}); Docker would not start from it either. Repair it first.") from None
    if not isinstance(found, dict):
        raise Refused(f"{path} is no JSON object. Repair it first.")
    return found


def _get(data: Json, key: str) -> Any:
    """The value of a dotted key, None where it is absent."""
    for part in key.split("."):
        if not isinstance(data, dict) or part not in data:
            return None
        data = data[part]
    return data


def _put(data: Json, key: str, value: Any) -> None:
    """Set a dotted key; None takes it away, with the levels that it leaves empty."""
    head, _, rest = key.partition(".")
    if rest:
        inner = data.setdefault(head, {})
        if not isinstance(inner, dict):
            raise Refused(f"{head} is no object, so {key} cannot be set in it. Repair it first.")
        _put(inner, rest, value)
        value = inner or None
    if value is None:
        data.pop(head, None)
    else:
        data[head] = value


def _replace(path: Path, text: str, run: Run) -> None:
    """Write beside the file, let dockerd read it, rename. Raises Refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    if path.is_file():
        shutil.copymode(path, fresh)
    if "--validate" in run(["dockerd", "--help"])[1]:
        rc, out, err = run(["dockerd", "--validate", "--config-file", str(fresh)])
        if rc != 0:
            fresh.unlink()
            raise Refused(f"dockerd does not take the new {path}: {' '.join((err or out).split())[:300]}.")
    fresh.replace(path)


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        {
            "path": {"type": "path", "default": "/etc/docker/daemon.json"},
            "state": {"type": "str", "default": "present", "choices": ["present", "restored"]},
            "set": {"type": "dict", "default": {}},
            "add": {"type": "dict", "default": {}},
            "record": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    do = present if module.params["state"] == "present" else restored
    try:
        before, after, keys = do(module.params, runner(module), dry=module.check_mode)
    except Refused as error:
        module.fail_json(msg=f"{error} Nothing was changed.")
    module.exit_json(changed=before != after, keys=keys, diff={"before": before, "after": after})


if __name__ == "__main__":
    main()
