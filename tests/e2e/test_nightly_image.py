"""The copy of a nightly: pushed to a registry or saved in a file, and what the undo takes away; on this engine."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from docker.errors import APIError, ImageNotFound

from migrate import bundled, image
from migrate.lab import names
from tests.core.fakes import settings

pytestmark = pytest.mark.e2e
REPOSITORY = f"{names.PUSH_ADDRESS}/nightly-under-test"


def run(folder: Path, tasks: str, variables: dict[str, Any], *options: str) -> str:
    """Run one of `stage`'s files of tasks here; returns what Ansible says."""
    included = {"ansible.builtin.include_role": {"name": "stage", "tasks_from": tasks}}
    (folder / "play.yml").write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": [included]}]))
    (folder / "variables.json").write_text(json.dumps(variables))
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local", *options]
    argv += ["-e", f"@{folder}/variables.json", "-e", f"ansible_python_interpreter={sys.executable}"]
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(bundled.root() / "ansible.cfg"),
        "ANSIBLE_ROLES_PATH": str(bundled.root() / "playbooks" / "roles"),
        "NO_COLOR": "1",
    }
    argv.append(str(folder / "play.yml"))
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def nightly(engine: docker.DockerClient, request: pytest.FixtureRequest) -> Iterator[str]:
    """The digest of a small image that a registry serves as `nightly`."""
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("nothing"))
    engine.api.import_image_from_data(empty.getvalue(), repository=REPOSITORY, tag="nightly")
    try:
        said = list(engine.api.push(REPOSITORY, tag="nightly", stream=True, decode=True))
    except APIError:
        said = []
    if not any("aux" in line for line in said):
        request.getfixturevalue("lab_up")
        said = list(engine.api.push(REPOSITORY, tag="nightly", stream=True, decode=True))
    yield next(line["aux"]["Digest"] for line in said if "aux" in line)
    for tag in (tag for found in engine.images.list(name=REPOSITORY) for tag in found.tags):
        engine.images.remove(tag)


@pytest.mark.parametrize("registry", [REPOSITORY, ""])
def test_a_copy_is_kept_once_and_its_undo_takes_it_from_the_host(
    nightly: str, registry: str, tmp_path: Path, engine: docker.DockerClient
) -> None:
    chosen = settings(image_strategy="nightly", vllm_image=f"{REPOSITORY}:nightly", image_keep_registry=registry)
    kept = image.kept(chosen, nightly, "2026-11-21T00:00:00Z")
    kept |= {"file": str(tmp_path / "images" / "kept.tar")} if kept["file"] else {}
    variables = {"vllm_image_digest": image.reference(chosen, nightly), "vllm_image_kept": kept}
    variables |= {"stage_pull_timeout_s": 60, "image_strategy": "nightly"}
    run(tmp_path, "keep", variables)
    name = f"{kept['repository']}:{kept['tag']}"
    assert kept["tag"] == f"nightly-20261121-{nightly[7:19]}"
    if registry:
        assert engine.images.get_registry_data(name)
    else:
        assert tarfile.is_tarfile(kept["file"])
    assert "changed=0" in run(tmp_path, "keep", variables)
    run(tmp_path, "forget", variables)
    with pytest.raises(ImageNotFound):
        engine.images.get(name)
    assert not list(tmp_path.glob("images/*.tar"))
    assert "changed=0" in run(tmp_path, "forget", variables)
