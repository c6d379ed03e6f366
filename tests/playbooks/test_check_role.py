"""The role `check`: what each check of a phase reads is handed to it, and a host's answer becomes a verdict."""

from __future__ import annotations

import ast
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from migrate import variables
from migrate.gate import Outcome, Verdict
from migrate.inventory import SETTING_NAMES, Inventory
from migrate.phases import PHASES
from migrate.playbook import AnsiblePlaybooks
from migrate.retire import CHECKS
from migrate.settings import known_settings
from tests.core import fakes
from tests.playbooks.conftest import PLAYBOOKS

FOLDER = PLAYBOOKS.parent / "checks"
ASKED = sorted({*CHECKS, *(name for phase in PHASES for name in phase.checks)})
COMMON = yaml.safe_load((PLAYBOOKS / "roles/check/defaults/main.yml").read_text())["check_common"]
# Settings of checks that are no settings of the inventory.
OURS = ("vllm_image_digest", "vllm_version", "gateway_image", "nvidia_root", "nvidia_tools", "vllm_api_key_file")
SMI = "0, NVIDIA H200, 9.0, 143771, 0, 580.159.04, Enabled"
PROC = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\n"
BUS = "01:00.0 3D controller [0302]: NVIDIA Corporation GH100 [H200 SXM 141GB] [10de:2335] (rev a1)"


def code(check: str) -> str:
    """What a check runs of ours that reads settings."""
    own = (FOLDER / f"{check}.py").read_text()
    return own + ((FOLDER / "shared" / "in_image.py").read_text() if "in_image" in own else "")


@pytest.mark.parametrize("check", ASKED)
def test_what_a_check_reads_is_handed_to_it(check: str) -> None:
    read = set(re.findall(r"settings(?:\.get\(|\[)\"(\w+)\"", code(check)))
    assert (read & {*known_settings(), *OURS}) - COMMON.keys() == set()


def test_the_docstring_of_a_check_names_what_it_reads() -> None:
    for check in ASKED:
        text = code(check)
        read = set(re.findall(r"settings(?:\.get\(|\[)\"(provision_\w+|nvidia_\w+|vllm_environment)\"", text))
        assert [name for name in read if name not in str(ast.get_docstring(ast.parse(text)))] == [], check


def test_what_every_playbook_is_given_is_no_setting_of_the_inventory() -> None:
    assert "{{ check_archive }}" in (PLAYBOOKS / "roles/check/tasks/main.yml").read_text()
    assert not re.match(SETTING_NAMES, "check_archive")


def program(path: Path, *cases: str) -> None:
    path.write_text('#!/bin/sh\ncase "$*" in ' + " ".join(cases) + " esac\n")
    path.chmod(0o755)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """This machine with an H200, its driver and a Docker that are programs; an image's verdict names its digest."""
    root, tools = tmp_path / "root", tmp_path / "tools"
    (root / "proc/driver/nvidia").mkdir(parents=True)
    (root / "proc/driver/nvidia/version").write_text(PROC)
    tools.mkdir()
    program(tools / "lspci", f"*) echo '{BUS}';;")
    program(tools / "modinfo", "*version*) echo 580.159.04;;", "*license*) echo Dual MIT/GPL;;")
    smi = (f"*=index*) echo '{SMI}';;", "*compute_cap*) echo 9.0;;", "*name*) echo NVIDIA H200;;")
    program(tools / "nvidia-smi", *smi, "-L) echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)';;", "*) echo CUDA Version: 13.0;;")
    saw = '{"verdict": "pass", "measured": "NCCL_P2P_DISABLE=1 reached the image"}'
    asked = f"*--gpus?all*NCCL_P2P_DISABLE=1*@sha256:*|*NCCL_P2P_DISABLE=1*--gpus?all*@sha256:*) echo '{saw}';;"
    program(tools / "docker", "*nvidia-smi*) echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)';;", "*inspect*) exit 1;;", asked)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return {
        "provision_gpu_root": str(root),
        "provision_gpu_tools": str(tools),
        "vllm_gpus": "all",
        "vllm_environment": {"NCCL_P2P_DISABLE": "1"},
    }


def verdicts(folder: Path, names: list[str], chosen: dict[str, Any]) -> dict[str, Verdict]:
    """What the role reports of this machine, run with the variables of a run."""
    settings = fakes.settings(**chosen)
    extra = variables.for_run(fakes.plan(), settings, "r1", folder / "raw", "") | {"migrate_target": "gpu01"}
    here = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": sys.executable}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"gpu01": here}}}))
    playbooks = AnsiblePlaybooks(Inventory(folder / "hosts.yml"))
    result = playbooks.run("preflight", extra | {"check_names": names}, lambda line: None)
    assert result.failures == []
    return {verdict.check: verdict for verdict in result.verdicts}


def test_a_host_that_is_as_asked_passes(tmp_path: Path, host: dict[str, Any]) -> None:
    names = ["gpu_driver", "cuda_toolkit", "nccl_host", "container_gpu", "torch_gpu", "nccl_allreduce"]
    found = verdicts(tmp_path, names, host | {"provision_manage": ["driver"]})
    assert {name: (verdict.verdict, verdict.advice) for name, verdict in found.items()} == dict.fromkeys(
        names, (Outcome.PASS, "")
    )
    assert "not asked for" in found["cuda_toolkit"].expected
    assert "not asked for" in found["nccl_host"].expected
    assert found["torch_gpu"].measured == "NCCL_P2P_DISABLE=1 reached the image"


def test_a_host_that_is_not_as_asked_fails(tmp_path: Path, host: dict[str, Any]) -> None:
    manage = ["driver", "cuda_toolkit", "nccl"]
    asked = {"provision_manage": manage, "provision_driver_branch": "570", "provision_cuda_toolkit": "11-1"}
    names = ["gpu_driver", "cuda_toolkit", "nccl_host", "torch_gpu"]
    found = verdicts(tmp_path, names, host | asked | {"vllm_environment": {}})
    assert "provision_driver_branch asks for 570" in found["gpu_driver"].advice
    assert "cuda-toolkit-11-1" in found["cuda_toolkit"].advice
    assert "libnccl2=2.26.5-1+cuda12.9" in found["nccl_host"].advice
    assert [found[name].verdict for name in names] == [*[Outcome.FAIL] * 3, Outcome.INCONCLUSIVE]
