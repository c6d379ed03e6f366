#!/usr/bin/python
"""Records a Triton stack on its own host so that it can be rebuilt without a registry."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.migrate_host import (
    BYTECODE,
    Run,
    container_spec,
    inspect,
    manifest,
    manifest_text,
    read_machine_id,
    runner,
    sha256_of,
    sha256_of_stream,
    write_private,
)
from ansible.module_utils.migrate_nginx import nginx_files

DOCUMENTATION = r"""
module: triton_snapshot
short_description: Records a Triton stack, or drops the record
description:
  - Writes container.json, models.sha256, models.tar, compose/, nginx/, packages.txt and the index snapshot.json (mode
    0600) and keeps the image under a second local tag. Values of the environment are keyed hashes in container.json.
  - A record that still describes the host is left as it is.
options:
  path: {type: path, required: true, description: Folder of the snapshot.}
  state: {type: str, default: present, choices: [present, absent], description: Record, or drop the record and the tag.}
  container: {type: str, required: true, description: Name of the Triton container.}
  compose_file: {type: path, required: true, description: Its compose file.}
  compose_project: {type: str, required: true, description: Its compose project.}
  compose_service: {type: str, required: true, description: Its service in that file.}
  model_repository: {type: path, required: true, description: Model repository on the host.}
  nginx_config_file: {type: path, required: true, description: Main file of the operator's nginx.}
author: [migrate]
"""
EXAMPLES = r"""
- name: Record the Triton stack
  triton_snapshot:
    path: /var/lib/migrate/snapshot
    container: triton-triton-1
    compose_file: /opt/triton/compose.yml
    compose_project: triton
    compose_service: triton
    model_repository: /srv/triton/models
    nginx_config_file: /etc/nginx/nginx.conf
"""
RETURN = r"""
index: {type: dict, returned: present, description: The content of snapshot.json.}
"""

KEEP_REPOSITORY = "migrate-keep/triton"


class CannotRecord(Exception):
    """The stack on the host cannot be recorded; the text says what is missing and what to do."""


def record(params: dict[str, Any], run: Run) -> tuple[bool, dict[str, Any]]:
    """Write what changed since the last record; returns (changed, index). Raises CannotRecord."""
    root = Path(params["path"])
    found = inspect(run, "container", params["container"])
    if not found:
        raise CannotRecord(f"no container is named {params['container']}; set triton_container, or start Triton first")
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    root.chmod(0o700)
    spec = container_spec(found, read_machine_id())
    write_private(root / "container.json", json.dumps(spec, indent=1, sort_keys=True) + "\n")
    write_private(root / "packages.txt", run(["dpkg-query", "-W"])[1])
    _copy_compose(Path(params["compose_file"]), root / "compose")
    _copy_nginx(params["nginx_config_file"], root / "nginx")
    _archive_models(Path(params["model_repository"]), root)
    index = {"schema": 1, "triton": _identity(params, found, run)}
    index["models_digest"] = sha256_of(root / "models.sha256")
    return _write_index(root, index)


def _identity(params: dict[str, Any], found: dict[str, Any], run: Run) -> dict[str, Any]:
    """What names the stack: image by every name it has, the place of its compose entry and of its models."""
    keep = f"{KEEP_REPOSITORY}:{found['Image'].removeprefix('sha256:')[:12]}"
    if not inspect(run, "image", keep):
        rc, _, err = run(["docker", "image", "tag", found["Image"], keep])
        if rc != 0:
            raise CannotRecord(f"the image could not be kept as {keep}: {err.strip()}")
    image = inspect(run, "image", found["Image"]) or {}
    return {
        "container": params["container"],
        "image": found["Config"]["Image"],
        "image_id": found["Image"],
        "repo_digests": image.get("RepoDigests") or [],
        "keep_tag": keep,
        "compose_file": params["compose_file"],
        "compose_project": params["compose_project"],
        "compose_service": params["compose_service"],
        "model_repository": params["model_repository"],
    }


def _copy_compose(file: Path, target: Path) -> None:
    if not file.is_file():
        raise CannotRecord(f"{file} is missing; set triton_compose_file")
    for source in (file, file.with_name(".env")):
        if source.is_file():
            write_private(target / source.name, source.read_text())


def _copy_nginx(main: str, target: Path) -> None:
    """Every file of the configuration under its own path. Raises CannotRecord where one cannot be read."""
    files, unread = nginx_files(main)
    if unread:
        raise CannotRecord(f"nginx's configuration is not whole: {'; '.join(unread[:3])}; set nginx_config_file")
    for name, content in files.items():
        # A name with `..` would leave the folder.
        place = os.path.realpath(name) if ".." in Path(name).parts else name
        write_private(target / place.lstrip("/"), content)


def _archive_models(repository: Path, root: Path) -> None:
    """models.tar and its manifest; the archive is written before the manifest that vouches for it."""
    if not repository.is_dir():
        raise CannotRecord(f"{repository} is missing; set triton_model_repository")
    files = manifest(repository)
    listed, archive = root / "models.sha256", root / "models.tar"
    if archive.is_file() and listed.is_file() and listed.read_text() == manifest_text(files):
        return
    temporary = root / ".models.tar.new"
    temporary.touch(mode=0o600)
    with tarfile.open(temporary, "w") as tar:
        tar.add(repository, arcname=".", filter=lambda member: None if member.name.endswith(BYTECODE) else member)
    _verify_archive(temporary, files)
    temporary.replace(archive)
    write_private(listed, manifest_text(files))


def _verify_archive(archive: Path, files: dict[str, str]) -> None:
    with tarfile.open(archive) as tar:
        missing = set(files) - {name.removeprefix("./") for name in tar.getnames()}
        if missing:
            raise CannotRecord(
                f"{min(missing)} vanished while the model repository was archived; take the snapshot again"
            )
        for member in (member for member in tar.getmembers() if member.isfile()):
            name = member.name.removeprefix("./")
            stream = tar.extractfile(member)
            if stream is None or sha256_of_stream(stream) != files.get(name):
                raise CannotRecord(f"{name} changed while the model repository was archived; take the snapshot again")


def _write_index(root: Path, index: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
    files = {name: digest for name, digest in manifest(root).items() if name != "snapshot.json"}
    index["files"] = files
    path = root / "snapshot.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    index["recorded_at"] = before.get("recorded_at")
    if before == index:
        return False, index
    index["recorded_at"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    write_private(path, json.dumps(index, indent=1, sort_keys=True) + "\n")
    return True, index


def drop(root: Path, run: Run) -> bool:
    """Remove the records and the tags that kept the image; False when there was nothing."""
    tags = run(["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", KEEP_REPOSITORY])[1].split()
    for tag in tags:
        run(["docker", "image", "rm", "--no-prune", tag])
    existed = root.is_dir()
    if existed:
        shutil.rmtree(root)
    return existed or bool(tags)


def main() -> None:
    """Answer Ansible."""
    spec: dict[str, Any] = {
        "path": {"type": "path", "required": True},
        "state": {"type": "str", "default": "present", "choices": ["present", "absent"]},
        "container": {"type": "str", "required": True},
        "compose_file": {"type": "path", "required": True},
        "compose_project": {"type": "str", "required": True},
        "compose_service": {"type": "str", "required": True},
        "model_repository": {"type": "path", "required": True},
        "nginx_config_file": {"type": "path", "required": True},
    }
    module = AnsibleModule(spec)
    run = runner(module)
    if module.params["state"] == "absent":
        module.exit_json(changed=drop(Path(module.params["path"]), run))
    try:
        changed, index = record(module.params, run)
    except CannotRecord as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, index=index)


if __name__ == "__main__":
    main()
