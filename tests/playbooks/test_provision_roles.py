"""Roles of `provision`, run by Ansible on this machine with apt and dpkg in a root of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Template

from tests.playbooks.apt_root import AptRoot, Deb, is_possible
from tests.playbooks.conftest import PLAYBOOKS
from tests.playbooks.role_play import Play, player

pytestmark = pytest.mark.skipif(not is_possible(), reason="needs root, apt, dpkg and gpg")

CUDA = "NVIDIA CUDA"


def packages(version: str) -> list[Deb]:
    """A driver and its fabric manager; packages of two branches replace each other."""
    suffix, full = f"-{version[:3]}", f"{version}-0ubuntu1"
    alone = {"Provides": "libnvidia-compute", "Conflicts": "libnvidia-compute", "Replaces": "libnvidia-compute"}
    manager = {key: "nvidia-fabricmanager" for key in alone}
    return [
        Deb(f"nvidia-open{suffix}", full, {"Depends": f"libnvidia-compute{suffix} (= {full})"}),
        Deb(f"libnvidia-compute{suffix}", full, alone),
        Deb(f"nvidia-fabricmanager{suffix}", full, manager),
    ]


@pytest.fixture
def apt(tmp_path: Path) -> Iterator[AptRoot]:
    root = AptRoot(tmp_path)
    debs = [*packages("570.172.08"), *packages("580.178.04"), Deb("nvidia-driver-pinning-580", "580-1ubuntu1")]
    root.know(root.repository("cuda", debs, label=CUDA))
    yield root
    root.close()


@pytest.fixture
def play(apt: AptRoot, tmp_path: Path) -> Play:
    """Run a role against that root."""
    return player(apt, tmp_path)


def modinfo(folder: Path, version: str) -> str:
    """A folder with a modinfo that finds an open module of the version."""
    folder.mkdir(exist_ok=True)
    text = f'#!/bin/sh\ncase "$2" in version) echo {version};; license) echo Dual MIT/GPL;; esac\n'
    (folder / "modinfo").write_text(text)
    (folder / "modinfo").chmod(0o755)
    return str(folder)


def driver(play: Play, apt: AptRoot, tmp_path: Path, version: str) -> dict[str, Any]:
    """What role gpu_driver would do to a host with this module; without leave to reboot it stops there."""
    listed = yaml.safe_load((PLAYBOOKS / "roles/provision/vars/main.yml").read_text())["__provision_driver_packages"]
    return play(
        "gpu_driver",
        "--check",
        facts=("__gpu_driver_plan", "__gpu_driver_now"),
        gpu_driver_packages=listed,
        gpu_driver_root=str(apt.root),
        gpu_driver_tools=modinfo(tmp_path / "tools", version),
        gpu_driver_record_dir=str(tmp_path / "records"),
        gpu_driver_kernel_headers=False,
        gpu_driver_boot_free_mib=0,
    )


def changes(told: dict[str, Any]) -> dict[str, str | None]:
    return {change["name"]: change["after"] for change in told["facts"]["__gpu_driver_plan"]["changes"]}


def test_a_fabric_manager_moves_with_the_driver(play: Play, apt: AptRoot, tmp_path: Path) -> None:
    apt.install("nvidia-open-570", "nvidia-fabricmanager-570")
    told = driver(play, apt, tmp_path, "570.172.08")
    assert "The driver needs a reboot" in told["msg"]
    assert told["facts"]["__gpu_driver_now"]["fabric"] == {"nvidia-fabricmanager-570": "570.172.08"}
    assert changes(told)["nvidia-fabricmanager-580"] == "580.178.04-0ubuntu1"
    assert changes(told)["nvidia-fabricmanager-570"] is None


def test_a_fabric_manager_is_never_brought_where_there_was_none(play: Play, apt: AptRoot, tmp_path: Path) -> None:
    apt.install("nvidia-open-570")
    told = driver(play, apt, tmp_path, "570.172.08")
    assert "The driver needs a reboot" in told["msg"]
    assert changes(told)["libnvidia-compute-580"] == "580.178.04-0ubuntu1"
    assert not any("fabricmanager" in name for name in changes(told))


def test_a_driver_of_a_run_file_is_refused_before_anything_is_installed(
    play: Play, apt: AptRoot, tmp_path: Path
) -> None:
    told = driver(play, apt, tmp_path, "575.57.08")
    assert "575.57.08 was installed by no package" in told["msg"]
    assert "sudo nvidia-uninstall" in told["msg"]
    assert apt.versions() == {}


def hold(play: Play, tmp_path: Path, *more: str, state: str = "present") -> None:
    record = str(tmp_path / "records" / "package_hold.json")
    told = play("package_hold", *more, package_hold_state=state, package_hold_method="hold", package_hold_record=record)
    assert told["msg"] == ""


def test_a_second_hold_keeps_the_names_of_the_first_and_the_undo_releases_all(
    play: Play, apt: AptRoot, tmp_path: Path
) -> None:
    record = tmp_path / "records" / "package_hold.json"
    apt.install("libnvidia-compute-570")
    hold(play, tmp_path, "--check")
    assert apt.must("apt-mark", "showhold") == ""
    hold(play, tmp_path)
    apt.install("nvidia-driver-pinning-580")
    hold(play, tmp_path)
    both = ["libnvidia-compute-570", "nvidia-driver-pinning-580"]
    assert apt.must("apt-mark", "showhold").split() == both
    assert json.loads(record.read_text()) == both
    hold(play, tmp_path, state="absent")
    assert apt.must("apt-mark", "showhold") == ""
    assert not record.exists()


def test_apt_reads_the_list_for_unattended_upgrades(apt: AptRoot) -> None:
    folder = PLAYBOOKS / "roles/package_hold"
    patterns = yaml.safe_load((folder / "defaults/main.yml").read_text())["package_hold_patterns"]
    template = Template((folder / "templates/52migrate-hold.j2").read_text(), trim_blocks=True)
    (apt.root / "etc/apt/apt.conf.d/52migrate-hold").write_text(template.render(package_hold_patterns=patterns))
    read = re.findall(
        r'^Unattended-Upgrade::Package-Blacklist:: "(.*)";$', apt.must("apt-config", "dump"), re.MULTILINE
    )
    assert read == patterns


@pytest.fixture
def second_part_fails(tmp_path: Path) -> None:
    """Stand-ins of two roles: the engine's succeeds, the container toolkit's does not."""
    ended = {
        "docker_engine": "",
        "container_toolkit": "{{ 'no such version' if container_toolkit_state == 'present' }}",
    }
    for role, msg in ended.items():
        folder = tmp_path / "roles" / role / "tasks"
        folder.mkdir(parents=True)
        task = {
            "name": "Do it",
            "ansible.builtin.fail": {"msg": msg},
            "when": f"{role}_state == 'present' and {bool(msg)}",
        }
        (folder / "main.yml").write_text(yaml.safe_dump([task]))


@pytest.mark.usefixtures("second_part_fails")
@pytest.mark.parametrize(
    ("is_second", "says"),
    [
        (False, "no such version What this run had done before was taken back."),
        (
            True,
            "Not taken back, .*: docker_engine as asked now; container_toolkit not. .*rollback --to before-provision",
        ),
    ],
)
def test_a_run_that_is_refused_names_what_stays(play: Play, tmp_path: Path, *, is_second: bool, says: str) -> None:
    records = tmp_path / "records"
    records.mkdir()
    if is_second:
        (records / "nccl.json").write_text("{}")
    asked = ["container_toolkit", "docker_engine"]
    told = play("provision/managed", provision_manage=asked, provision_record_dir=str(records))
    assert re.search(says, told["msg"]), told["msg"]
