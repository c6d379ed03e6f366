"""gpu_state: what is loaded against what is installed, from captured files and from the forms that break readers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CASES = Path(__file__).parents[1] / "cases" / "discover" / "gpu"
CONTAINER = "4f3c9cbf536f"


@pytest.fixture
def look(library: Callable[[str], ModuleType], tmp_path: Path) -> Callable[..., Any]:
    """Read the state of tmp_path, with the answers of the commands; one that is not given is not there."""
    module = library("gpu_state")

    def run(**answers: str | int) -> Any:
        def command(argv: list[str]) -> tuple[int, str, str]:
            key = f"{argv[0]}_{argv[2]}".replace("-", "_") if argv[0] == "modinfo" else argv[0].replace("-", "_")
            answer = ({"dpkg_query": ""} | answers).get(key, 127)
            return (answer, "", "") if isinstance(answer, int) else (0, answer, "")

        return module.state({"root": str(tmp_path), "serving_container": "triton"}, command)

    return run


def loaded(root: Path, case: str) -> None:
    path = root / "proc/driver/nvidia/version"
    path.parent.mkdir(parents=True)
    path.write_text((CASES / case).read_text())


def packages(*names: str) -> str:
    return "".join(f"{name}\tinstalled\n" for name in names)


OPEN = {"modinfo_version": "580.95.05\n", "modinfo_license": "Dual MIT/GPL\n"}


def version_of(case: str) -> str:
    return next(word for word in (CASES / case).read_text().split() if word[:1].isdigit() and "." in word)


def test_the_same_module_needs_no_reboot(look: Callable[..., Any], tmp_path: Path) -> None:
    loaded(tmp_path, "open.version")
    found = look(modinfo_version=version_of("open.version"), modinfo_license="Dual MIT/GPL")
    assert found["reboot_due"] is False
    assert found["loaded"] == found["installed"] == {"version": version_of("open.version"), "flavour": "open"}


def test_another_version_is_a_reboot_that_is_due(look: Callable[..., Any], tmp_path: Path) -> None:
    loaded(tmp_path, "open.version")
    assert look(modinfo_version="580.999.01", modinfo_license="Dual MIT/GPL")["reboot_due"] is True


def test_the_same_version_of_another_flavour_is_one_too(look: Callable[..., Any], tmp_path: Path) -> None:
    loaded(tmp_path, "proprietary.version")
    version = version_of("proprietary.version")
    assert look(modinfo_version=version, modinfo_license="NVIDIA")["reboot_due"] is False
    assert look(modinfo_version=version, modinfo_license="Dual MIT/GPL")["reboot_due"] is True


def test_installed_and_never_loaded_is_due_and_nothing_installed_is_not(look: Callable[..., Any]) -> None:
    assert look(**OPEN)["reboot_due"] is True
    assert look()["reboot_due"] is False


@pytest.mark.parametrize("version", ["580.95.05-0ubuntu1", "2:580.95.05-0ubuntu0.24.04.1"])
def test_the_library_is_told_by_its_upstream_version(look: Callable[..., Any], version: str) -> None:
    told = packages(f"libnvidia-compute-580-server\t{version}", "libnvidia-container1\t1.19.1-1")
    assert look(dpkg_query=told)["library"] == "580.95.05"


def test_the_fabric_manager_is_told_where_there_is_one(look: Callable[..., Any]) -> None:
    names = ("nvidia-fabricmanager-570\t570.172.08-1", "nvlink5-570\t570.172.08-1", "nvidia-fabricmanager-dev-570\t1")
    told = look(dpkg_query=packages(*names))
    assert told["fabric"] == {"nvidia-fabricmanager-570": "570.172.08", "nvlink5-570": "570.172.08"}
    assert look()["fabric"] == {}


@pytest.mark.parametrize(("last", "is_on"), [(b"\0", False), (b"\1", True)])
def test_secure_boot_is_read_from_the_firmware(
    look: Callable[..., Any], tmp_path: Path, last: bytes, is_on: bool
) -> None:
    variable = tmp_path / "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    variable.parent.mkdir(parents=True)
    variable.write_bytes(b"\x06\0\0\0" + last)
    assert look()["secure_boot"] is is_on


def test_an_enrolled_key_is_told_by_mokutils_exit_code(look: Callable[..., Any]) -> None:
    assert [look(mokutil=code)["key_enrolled"] for code in (0, 1, 127)] == [False, True, False]


def test_nouveau_is_seen(look: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/modules").write_text("drm 1 0 - Live 0x0\nnouveau 2494464 0 - Live 0x0\n")
    assert look()["nouveau"] is True


def test_users_of_the_cards_are_named_but_the_serving_container_is_expected(
    look: Callable[..., Any], tmp_path: Path
) -> None:
    processes = {
        "100": ("tritonserver", "/dev/nvidia0", f"0::/system.slice/docker-{CONTAINER}.scope"),
        "200": ("Xorg", "/dev/nvidiactl", "0::/user.slice"),
        "300": ("nvidia-persiste", "/dev/nvidia0", "0::/system.slice"),
        "400": ("bash", "/dev/null", "0::/user.slice"),
    }
    for pid, (name, device, cgroup) in processes.items():
        folder = tmp_path / "proc" / pid
        (folder / "fd").mkdir(parents=True)
        (folder / "comm").write_text(f"{name}\n")
        (folder / "cgroup").write_text(f"{cgroup}\n")
        os.symlink(device, folder / "fd" / "3")
    assert look(docker=CONTAINER)["users"] == ["Xorg (200)"]
    assert look()["users"] == ["Xorg (200)", "tritonserver (100)"]
