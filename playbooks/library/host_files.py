#!/usr/bin/python
"""Puts many small files and their directories in place in one call, each file whole or not at all."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: host_files
short_description: Puts many small text files in place in one call
description:
  - A task for each file costs a second or two over SSH; this module takes them all.
  - Owner and group are root. A file is written beside its place, validated, and renamed.
options:
  directories:
    type: list
    elements: dict
    default: []
    description: Directories, each with its mode, parents first.
    options:
      path: {type: path, required: true, description: The directory.}
      mode: {type: str, required: true, description: Its mode, octal.}
  files:
    type: list
    elements: dict
    required: true
    description: Files, each with its mode and content.
    options:
      path: {type: path, required: true, description: The file.}
      mode: {type: str, required: true, description: Its mode, octal.}
      content: {type: str, required: true, description: Its text.}
      validate: {type: list, elements: str, default: [], description: Command that reads it; the path is appended.}
author: [migrate]
"""
EXAMPLES = r"""
- name: Install a script
  host_files:
    files:
      - {path: /usr/local/bin/x, mode: "0755", content: "#!/bin/sh\n", validate: [sh, -n]}
"""
RETURN = r"""
written: {type: list, elements: str, returned: always, description: Paths that were made or changed.}
"""


class NotValid(Exception):
    """A file was refused by its validator; the text says why."""


def main() -> None:
    """Write what differs; in check mode only say what would be written."""
    one = {"path": {"type": "path", "required": True}, "mode": {"type": "str", "required": True}}
    more = {
        "content": {"type": "str", "required": True},
        "validate": {"type": "list", "elements": "str", "default": []},
    }
    module = AnsibleModule(
        argument_spec={
            "directories": {"type": "list", "elements": "dict", "default": [], "options": one},
            "files": {"type": "list", "elements": "dict", "required": True, "options": one | more},
        },
        supports_check_mode=True,
    )
    try:
        written = [d["path"] for d in module.params["directories"] if _directory(d, dry=module.check_mode)]
        written += [f["path"] for f in module.params["files"] if _file(f, dry=module.check_mode)]
    except (NotValid, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(written), written=written)


def _directory(wanted: dict[str, Any], *, dry: bool) -> bool:
    path, mode = Path(wanted["path"]), int(wanted["mode"], 8)
    if path.is_dir() and _is_ours(path, mode):
        return False
    if not dry:
        path.mkdir(parents=True, exist_ok=True)
        _own(path, mode)
    return True


def _file(wanted: dict[str, Any], *, dry: bool) -> bool:
    path, mode, content = Path(wanted["path"]), int(wanted["mode"], 8), wanted["content"].encode()
    if path.is_file() and path.read_bytes() == content and _is_ours(path, mode):
        return False
    if not dry:
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_bytes(b"")
        _own(fresh, mode)
        fresh.write_bytes(content)
        _validate(fresh, wanted["validate"])
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.rename(path)
    return True


def _validate(path: Path, command: list[str]) -> None:
    if not command:
        return
    done = subprocess.run(  # noqa: S603 - the role names the command
        [*command, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        path.unlink()
        raise NotValid(f"{path}: {' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")


def _is_ours(path: Path, mode: int) -> bool:
    found = path.stat()
    root = (pwd.getpwnam("root").pw_uid, grp.getgrnam("root").gr_gid)
    return found.st_mode & 0o7777 == mode and (found.st_uid, found.st_gid) == root


def _own(path: Path, mode: int) -> None:
    os.chown(path, pwd.getpwnam("root").pw_uid, grp.getgrnam("root").gr_gid)
    path.chmod(mode)


if __name__ == "__main__":
    main()
