"""vLLM's image out of its sdist, on the lab's image, for no device: the role's whole way on this machine's engine."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml
from docker.errors import ImageNotFound

from migrate import bundled, image, image_source
from tests.core.fakes import facts, settings

pytestmark = pytest.mark.e2e
BASE = "127.0.0.1:5000/vllm-openai:v0.31.0"
SDIST = "dde46f1efbe846e5bd0c5c4ec6ec71842c42254c7ff3d9bebb2a57028715d380"
PATCH = """--- a/vllm/__init__.py
+++ b/vllm/__init__.py
@@ -1,2 +1,3 @@
 # SPDX-License-Identifier: Apache-2.0
+# patched by an operator
 # SPDX-FileCopyrightText: Copyright contributors to the vLLM project
"""


@dataclass(frozen=True)
class Builder:
    """The role `vllm_image` against this machine, in a folder of its own."""

    folder: Path
    engine: docker.DockerClient
    digest: str

    def variables(self, **changed: Any) -> dict[str, Any]:
        """The role's variables as the controller computes them."""
        chosen = {
            "image_strategy": "source",
            "image_base": BASE,
            "image_vllm_version": "0.31.0",
            "image_vllm_sha256": SDIST,
            "image_torch": "base",
            "image_target_device": "empty",
            "image_network": "host",
            "image_ca_file": os.environ.get("PIP_CERT", ""),
            "image_pip_config": str(self._pip_config()),
            "image_patches_dir": str(self.folder / "patches"),
        }
        planned = image.chosen(settings(**(chosen | changed)), facts() | {"vllm_image": {"digest": self.digest}})
        return planned.flat() | {
            "vllm_image_digest": image.reference(planned, ""),
            "vllm_image_build": image_source.build(planned),
            "vllm_image_build_dir": str(self.folder / "build"),
            "vllm_image_poll_s": 5,
            "migrate_checks_dir": str(bundled.root() / "checks"),
        }

    def run(self, variables: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
        """Run the role."""
        play = [{"hosts": "all", "gather_facts": False, "roles": ["vllm_image"]}]
        (self.folder / "play.yml").write_text(yaml.safe_dump(play))
        (self.folder / "variables.json").write_text(json.dumps(variables))
        playbook = Path(sys.executable).with_name("ansible-playbook")
        argv = [str(playbook), "-i", "localhost,", "-c", "local", "-e", f"@{self.folder}/variables.json", *options]
        argv += ["-e", f"ansible_python_interpreter={sys.executable}", str(self.folder / "play.yml")]
        playbooks = bundled.root() / "playbooks"
        environment = os.environ | {
            "ANSIBLE_CONFIG": str(bundled.root() / "ansible.cfg"),
            "ANSIBLE_ROLES_PATH": str(playbooks / "roles"),
            "ANSIBLE_LIBRARY": str(playbooks / "library"),
            "NO_COLOR": "1",
        }
        done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=1200)
        print(done.stdout[-6000:], done.stderr[-2000:])
        return done

    def holds(self, name: str) -> bool:
        """Whether the engine has the image."""
        try:
            return bool(self.engine.images.get(name))
        except ImageNotFound:
            return False

    def _pip_config(self) -> Path:
        """The index of this machine's pip, which containers reach too; without its folders, which they do not see."""
        said = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
        found = dict(line.partition("=")[::2] for line in said.splitlines() if "=" in line)
        index = found.get(":env:.index-url") or found.get("global.index-url") or "'https://pypi.org/simple'"
        file = self.folder / "pip.conf"
        file.write_text(f"[global]\nindex-url = {ast.literal_eval(index)}\n")
        return file


@pytest.fixture
def builder(lab_up: None, tmp_path: Path, engine: docker.DockerClient) -> Builder:
    looked = subprocess.run(
        [sys.executable, bundled.root() / "playbooks/roles/vllm_image/files/build.py", "--look"], capture_output=True
    )
    if looked.returncode:
        pytest.skip("this machine's docker cannot build with BuildKit")
    base = engine.images.pull(BASE)
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches" / "01-note.patch").write_text(PATCH)
    return Builder(tmp_path, engine, str(base.attrs["RepoDigests"][0]).partition("@")[2])


def test_vllm_is_built_from_its_sdist_once_and_taken_away_again(builder: Builder) -> None:
    variables = builder.variables()
    name = variables["vllm_image_digest"]
    assert name.startswith("migrate-vllm:v0.31.0-empty-")
    checked = builder.run(variables, "--check")
    assert checked.returncode == 0
    assert "changed=0" not in checked.stdout
    assert not builder.holds(name)
    try:
        built = builder.run(variables)
        assert built.returncode == 0, built.stdout[-3000:]
        log = (builder.folder / "build" / "build.log").read_text()
        if "CACHED" not in log:
            assert "migrate: skipped the check of the card's kernels" in log
            assert "image_abi: inconclusive: vllm 0.31.0+empty" in log
        where = "import vllm, pathlib; print(vllm.__version__, 'patched by an operator' in open(vllm.__file__).read())"
        said = builder.engine.containers.run(name, ["-c", where], entrypoint="python3", remove=True).decode()
        assert said.split() == ["0.31.0", "True"]
        secret = ["-c", "cat /etc/pip.conf 2>/dev/null || true"]
        assert builder.engine.containers.run(name, secret, entrypoint="sh", remove=True) == b"", "no layer has it"
        assert "changed=0" in builder.run(variables).stdout
        assert builder.run(variables | {"vllm_image_state": "absent"}).returncode == 0
        assert not builder.holds(name)
        assert "changed=0" in builder.run(variables | {"vllm_image_state": "absent"}).stdout
    finally:
        if builder.holds(name):
            builder.engine.images.remove(name)


@pytest.mark.parametrize("trap", ["hash", "patch", "changed patch"])
def test_a_build_that_is_not_the_plan_s_ends_with_its_cause(builder: Builder, trap: str) -> None:
    patch = builder.folder / "patches" / "02-other.patch"
    if trap == "patch":
        patch.write_text(PATCH.replace("Apache-2.0", "No-Such-License"))
    variables = builder.variables(**({"image_vllm_sha256": "0" * 64} if trap == "hash" else {}))
    if trap == "changed patch":
        variables["vllm_image_build"]["tag"] = "migrate-vllm:v0.31.0-empty-000000000000"
    done = builder.run(variables)
    assert done.returncode != 0
    told = {"hash": "image_vllm_sha256 is 000", "patch": "02-other.patch does not apply", "changed patch": "plan again"}
    assert told[trap] in done.stdout
    assert not builder.holds(variables["vllm_image_digest"])
