"""Weights fetched by the real role from the stand-in hub, and checkpoints converted in the lab's vLLM image."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from migrate.lab.names import REGISTRY_PORT, VLLM
from tests.playbooks.conftest import PLAYBOOKS
from tests.playbooks.hub import COMMIT, Faults, StandIn, git_blob, serving

pytestmark = pytest.mark.e2e
IMAGE = f"127.0.0.1:{REGISTRY_PORT}/{VLLM.repository}:{VLLM.tag}"
TOKEN = "hf_verySecretToken123"
SCRIPT = PLAYBOOKS / "roles" / "stage" / "files" / "convert_weights.py"

# Tied, of several types, of no dimension, transposed, and a part of a larger tensor.
MAKE = """
import torch
torch.manual_seed(0)
tied = torch.randn(500, 64, dtype=torch.bfloat16)
large = torch.randn(8, 8)
torch.save({"embed.weight": tied, "lm_head.weight": tied, "half": torch.randn(300, 500).half().t(),
            "part": large[2:4], "one": torch.tensor(3.5), "nan": torch.tensor([float("nan")]),
            "none": torch.zeros(0, 4)}, "/out/pytorch_model-00001-of-00002.bin")
torch.save({"int": torch.arange(7), "bool": torch.tensor([True, False])}, "/out/pytorch_model-00002-of-00002.bin",
           _use_new_zipfile_serialization=False)
"""
READ = """
import json
from safetensors import safe_open
found = {}
for name in ("model-00001-of-00002", "model-00002-of-00002"):
    with safe_open(f"/out/{name}.safetensors", "pt") as file:
        found |= {key: [str(file.get_tensor(key).dtype), list(file.get_tensor(key).shape)] for key in file.keys()}
print(json.dumps(found))
"""
EVIL = """
import os, torch
class Evil:
    def __reduce__(self):
        return (os.system, ("touch /target/pwned",))
torch.save({"w": torch.zeros(2), "x": Evil()}, "/out/pytorch_model.bin")
"""


def in_image(code: str, folder: Path) -> str:
    """Run Python in the vLLM image over a folder."""
    command = ["docker", "run", "--rm", "--network=none", f"--volume={folder}:/out", "--entrypoint=python3", IMAGE]
    done = subprocess.run([*command, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkpoint(lab_up: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A repository of two checkpoints."""
    folder = tmp_path_factory.mktemp("made")
    in_image(MAKE, folder)
    names = (["embed.weight", "lm_head.weight", "half", "part", "one", "nan", "none"], ["int", "bool"])
    first, second = (dict.fromkeys(names[n], f"pytorch_model-0000{n + 1}-of-00002.bin") for n in (0, 1))
    index = {"weight_map": first | second}
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files | {"config.json": b"{}", "pytorch_model.bin.index.json": json.dumps(index).encode()}


@pytest.fixture
def place(lab_up: None, tmp_path: Path) -> Iterator[Path]:
    """Where the weights go; Docker sees the same path."""
    yield tmp_path / "weights" / "phi2"
    shutil.rmtree(tmp_path / "weights", ignore_errors=True)


def stage(hub: StandIn, place: Path, *options: str) -> tuple[int, str]:
    """The role's own tasks against this machine; exit code and all that was said, with the modules' arguments."""
    listing = {name: [len(content), f"git:{git_blob(content)}"] for name, content in hub.files.items()}
    told = {"kind": "hub", "digest": "d" * 64, "commit": COMMIT, "files": listing}
    given: dict[str, Any] = {
        "vllm_image_digest": IMAGE,
        "vllm_memory_limit": "4g",
        "vllm_weights_path": str(place),
        "vllm_weights_source": "",
        "weights_repository": "acme/model",
        "weights_endpoint": hub.url,
        "weights_token": TOKEN,
        "stage_weights": told,
        "stage_poll_s": 1,
    }
    work = place.parents[1]
    (work / "given.json").write_text(json.dumps(given))
    tasks = [{"ansible.builtin.include_role": {"name": "stage", "tasks_from": "weights.yml"}}]
    (work / "play.yml").write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(PLAYBOOKS.parent / "ansible.cfg"),
        "ANSIBLE_ROLES_PATH": str(PLAYBOOKS / "roles"),
        "ANSIBLE_LIBRARY": str(PLAYBOOKS / "library"),
        "ANSIBLE_MODULE_UTILS": str(PLAYBOOKS / "module_utils"),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "NO_COLOR": "1",
    }
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-vvv", "-i", "localhost,", "-c", "local"]
    argv += ["-e", f"@{work}/given.json", *options, str(work / "play.yml")]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=600)
    return done.returncode, done.stdout + done.stderr


def changed(said: str) -> int:
    """How many tasks changed something, by Ansible's own count."""
    return int(said.rsplit("changed=", 1)[1].split()[0])


def test_checkpoints_are_fetched_over_cuts_and_converted_once(checkpoint: dict[str, bytes], place: Path) -> None:
    faults = Faults(token=TOKEN, cut_after=150_000, cuts=2)
    with serving(checkpoint, faults) as hub:
        code, said = stage(hub, place, "--check")
        assert (code, hub.requests, place.parent.exists()) == (0, [], False), said
        code, said = stage(hub, place)
        assert code == 0, said
        assert TOKEN not in said
        assert "bytes=150000-" in hub.ranges(".bin")
        names = {path.name for path in place.iterdir()}
        assert names == {"config.json", "model.safetensors.index.json"} | {
            f"model-0000{number}-of-00002.safetensors" for number in (1, 2)
        }
        found = json.loads(in_image(READ, place))
        assert found == {
            "embed.weight": ["torch.bfloat16", [500, 64]],
            "lm_head.weight": ["torch.bfloat16", [500, 64]],
            "half": ["torch.float16", [500, 300]],
            "part": ["torch.float32", [2, 8]],
            "one": ["torch.float32", []],
            "nan": ["torch.float32", [1]],
            "none": ["torch.float32", [0, 4]],
            "int": ["torch.int64", [7]],
            "bool": ["torch.bool", [2]],
        }
        sums = place.with_name("phi2.sha256").read_text()
        assert all(name in sums for name in names)
        hub.requests.clear()
        code, said = stage(hub, place)
        assert (code, changed(said), hub.requests) == (0, 0, []), said


def test_a_checkpoint_that_would_run_code_is_refused(place: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    in_image(EVIL, made)
    with serving({"config.json": b"{}", "pytorch_model.bin": (made / "pytorch_model.bin").read_bytes()}) as hub:
        code, said = stage(hub, place)
    assert code != 0
    assert "not converted: " in said
    assert not place.exists()
    assert not list(place.parent.rglob("pwned"))


def test_a_wrong_hash_ends_the_run_by_name(place: Path) -> None:
    with serving({"config.json": b"{}"}) as hub:
        hub.files = {"config.json": b"{}"}
        right = hub.files["config.json"]
        assert stage(hub, place)[0] != 0  # neither form of weights is there
        hub.files = {"config.json": b"[]", "model.safetensors": b"x"}
        listing = dict(hub.files)
        hub.files["config.json"] = right
        wrong = StandIn(listing, Faults(), url=hub.url)
        code, said = stage(wrong, place)
    assert code != 0
    assert "config.json of acme/model is git:" in said
    assert not place.exists()
