#!/usr/bin/python
"""Copies, restores or removes a folder of model files, each file judged by its sha256."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.migrate_host import BYTECODE, manifest, manifest_text, parse_manifest, write_private

DOCUMENTATION = r"""
module: model_files
short_description: Puts a folder of model files in place, or takes exactly those files away
description:
  - C(state=present) fills O(path) from the folder O(source) or the archive O(archive) and proves every file by
    sha256; the manifest is kept in O(manifest).
  - C(state=absent) removes the files that O(manifest) lists with the content that it lists; everything else is
    kept and named.
options:
  path: {type: path, required: true, description: The folder.}
  state: {type: str, default: present, choices: [present, absent], description: Fill or empty the folder.}
  manifest: {type: path, required: true, description: File in the form of sha256sum; written when O(source) is given.}
  source: {type: path, description: Folder to copy from.}
  archive: {type: path, description: Archive (tar) to restore from; needs an existing O(manifest).}
author: [migrate]
"""
EXAMPLES = r"""
- name: Copy the weights
  model_files:
    path: /var/lib/migrate/weights/phi2
    manifest: /var/lib/migrate/weights/phi2.sha256
    source: /srv/triton/models/phi2/1/weights
"""
RETURN = r"""
removed: {type: list, elements: str, returned: absent, description: Paths that were removed.}
kept: {type: list, elements: str, returned: absent, description: Paths that the manifest does not vouch for.}
"""


class WrongFiles(Exception):
    """Files are missing or differ from their manifest; the text names them."""


def copy(source: Path, path: Path, listed: Path) -> bool:
    """Make `path` equal to `source`; False when every file was already the same. Raises WrongFiles."""
    if not source.is_dir():
        raise WrongFiles(f"{source} is missing on the host; set vllm_weights_source")
    wanted = manifest(source)
    if not wanted:
        raise WrongFiles(f"{source} holds no files; set vllm_weights_source")
    if path.is_dir() and manifest(path) == wanted:
        return bool(write_private(listed, manifest_text(wanted)))
    fresh = path.with_name(f".{path.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copytree(source, fresh)
    _take(fresh, path, wanted)
    write_private(listed, manifest_text(wanted))
    return True


def _take(fresh: Path, path: Path, wanted: dict[str, str]) -> None:
    """Move the new folder into place once all its files are proved."""
    compare(manifest(fresh), wanted)
    if path.is_dir():
        shutil.rmtree(path)
    fresh.rename(path)


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
        "source": {"type": "path"},
        "archive": {"type": "path"},
    }
    module = AnsibleModule(spec, mutually_exclusive=[("source", "archive")])
    given = {key: Path(value) for key, value in module.params.items() if value and key != "state"}
    try:
        if module.params["state"] == "absent":
            removed, kept = remove(given["path"], given["manifest"])
            module.exit_json(changed=bool(removed), removed=removed, kept=kept)
        if "source" in given:
            module.exit_json(changed=copy(given["source"], given["path"], given["manifest"]))
        module.exit_json(changed=restore(given["archive"], given["path"], given["manifest"]))
    except (WrongFiles, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
