#!/usr/bin/python
"""Restores or removes a folder of model files, each file judged by its sha256."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.migrate_host import BYTECODE, manifest, parse_manifest

DOCUMENTATION = r"""
module: model_files
short_description: Puts a folder of model files back, or takes exactly those files away
description:
  - C(state=present) fills O(path) from the archive O(archive) and proves every file by sha256.
  - C(state=absent) removes the files that O(manifest) lists with the content that it lists; everything else is
    kept and named.
options:
  path: {type: path, required: true, description: The folder.}
  state: {type: str, default: present, choices: [present, absent], description: Fill or empty the folder.}
  manifest: {type: path, required: true, description: File in the form of sha256sum.}
  archive: {type: path, description: Archive (tar) to restore from; needed for C(state=present).}
author: [migrate]
"""
EXAMPLES = r"""
- name: Put the models back
  model_files:
    path: /srv/triton/models
    manifest: /var/lib/migrate/snapshot/models.sha256
    archive: /var/lib/migrate/snapshot/models.tar
"""
RETURN = r"""
removed: {type: list, elements: str, returned: absent, description: Paths that were removed.}
kept: {type: list, elements: str, returned: absent, description: Paths that the manifest does not vouch for.}
"""


class WrongFiles(Exception):
    """Files are missing or differ from their manifest; the text names them."""


def compare(found: dict[str, str], wanted: dict[str, str]) -> None:
    """Raise WrongFiles when a wanted file is missing or differs."""
    wrong = sorted(name for name, digest in wanted.items() if found.get(name) != digest)
    if wrong:
        raise WrongFiles(
            f"{len(wrong)} of {len(wanted)} files differ from their manifest, first: {', '.join(wrong[:5])}"
        )


def restore(archive: Path, path: Path, listed: Path) -> bool:
    """Put every file of the manifest back from the archive; files beside them stay. Raises WrongFiles."""
    wanted = parse_manifest(listed.read_text())
    found = manifest(path) if path.is_dir() else {}
    if all(found.get(name) == digest for name, digest in wanted.items()):
        return False
    changed = sorted(name for name, digest in wanted.items() if name in found and found[name] != digest)
    if changed:
        raise WrongFiles(
            f"{path}/{changed[0]} was changed since the snapshot; move it away, then go on with the rollback"
        )
    with tarfile.open(archive) as tar:
        tar.extractall(path, filter="fully_trusted")  # noqa: S202 - written by root on this host, proved by the manifest
    compare(manifest(path), wanted)
    return True


def remove(path: Path, listed: Path) -> tuple[list[str], list[str]]:
    """Remove the files that the manifest vouches for and the folders left empty; returns (removed, kept) paths."""
    wanted = parse_manifest(listed.read_text()) if listed.is_file() else {}
    found = manifest(path) if path.is_dir() else {}
    removed = [name for name, digest in found.items() if wanted.get(name) == digest]
    for name in removed:
        (path / name).unlink()
    for cache in list(path.rglob(BYTECODE)):
        shutil.rmtree(cache)
    folders = sorted((entry for entry in path.rglob("*") if entry.is_dir()), reverse=True)
    for folder in [*folders, path]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    kept = sorted(set(found) - set(removed))
    return [str(path / name) for name in removed], [str(path / name) for name in kept]


def main() -> None:
    """Answer Ansible."""
    spec: dict[str, Any] = {
        "path": {"type": "path", "required": True},
        "state": {"type": "str", "default": "present", "choices": ["present", "absent"]},
        "manifest": {"type": "path", "required": True},
        "archive": {"type": "path"},
    }
    module = AnsibleModule(spec, required_if=[("state", "present", ["archive"])])
    given = {key: Path(value) for key, value in module.params.items() if value and key != "state"}
    try:
        if module.params["state"] == "absent":
            removed, kept = remove(given["path"], given["manifest"])
            module.exit_json(changed=bool(removed), removed=removed, kept=kept)
        module.exit_json(changed=restore(given["archive"], given["path"], given["manifest"]))
    except (WrongFiles, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
