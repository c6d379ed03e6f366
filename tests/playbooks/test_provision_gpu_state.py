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

    def run(source: str = "auto", **answers: str | int) -> Any:
        def command(argv: list[str]) -> tuple[int, str, str]:
            more = {"modinfo": argv[2:3], "apt-cache": argv[1:2]}.get(argv[0], [])
            key = "_".join([argv[0], *more]).replace("-", "_")
            answer = ({"dpkg_query": ""} | answers).get(key, 127)
            return (answer, "", "") if isinstance(answer, int) else (0, answer, "")

        return module.state({"root": str(tmp_path), "serving_container": "triton", "source": source}, command)

    return run


def loaded(root: Path, case: str) -> None:
    path = root / "proc/driver/nvidia/version"
    path.parent.mkdir(parents=True)
    path.write_text((CASES / case).read_text())


def secure_boot(root: Path, last: bytes) -> None:
    """UEFI's variable, with this last byte; none at all without one."""
    variable = root / "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    variable.parent.mkdir(parents=True)
    if last:
        variable.write_bytes(b"\x06\0\0\0" + last)


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
    secure_boot(tmp_path, last)
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


UBUNTU = "http://archive.ubuntu.com/ubuntu noble-updates/restricted amd64 Packages"
CUDA = "https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2404/x86_64  Packages"
PPA = "https://ppa.launchpadcontent.net/graphics-drivers/ppa/ubuntu noble/main amd64 Packages"
POLICY = f"""\
Package files:
 500 {UBUNTU}
     release v=24.04,o=Ubuntu,a=noble-updates,n=noble,l=Ubuntu,c=restricted,b=amd64
 600 {CUDA}
     release o=NVIDIA,l=NVIDIA CUDA,c=
 500 {PPA}
     release v=24.04,o=LP-PPA-graphics-drivers,a=noble,n=noble,l=Proprietary GPU Drivers,c=main,b=amd64
"""
OFFERS = f"""\
 libnvidia-compute-580 | 580.173.02-0ubuntu0.24.04.1 | {UBUNTU}
 libnvidia-compute-580 | 580.126.20-0ubuntu1 | {CUDA}
 libnvidia-compute-580 | 580.95.05-0ubuntu0~gpu24.04.1 | {PPA}
"""


@pytest.mark.parametrize(
    ("version", "origin", "source"),
    [
        ("580.173.02-0ubuntu0.24.04.1", "Ubuntu", "ubuntu"),
        ("580.126.20-0ubuntu1", "NVIDIA CUDA", "cuda_repo"),
        # The archive has the newest update alone.
        ("580.159.03-0ubuntu0.24.04.1", "Ubuntu", "ubuntu"),
        ("580.95.05-0ubuntu0~gpu24.04.1", "Proprietary GPU Drivers", "cuda_repo"),
        ("580.65.06-0ubuntu1", "", "cuda_repo"),
    ],
)
@pytest.mark.parametrize("is_secure", [False, True])
def test_an_installed_driver_keeps_its_origin(
    look: Callable[..., Any], tmp_path: Path, version: str, origin: str, source: str, is_secure: bool
) -> None:
    secure_boot(tmp_path, b"\1" if is_secure else b"\0")
    told = look(
        dpkg_query=packages(f"libnvidia-compute-580\t{version}"), apt_cache_madison=OFFERS, apt_cache_policy=POLICY
    )
    assert (told["origin"], told["source"]) == (origin, source)
    assert "never crosses" in told["source_reason"]


@pytest.mark.parametrize(
    ("last", "mokutil", "source", "says"),
    [
        (b"\1", 0, "ubuntu", "is not enrolled"),
        (b"\1", 1, "cuda_repo", "is enrolled"),
        (b"\0", 0, "cuda_repo", "Secure Boot is off"),
        (b"", 0, "cuda_repo", "cannot be told"),
    ],
)
def test_a_host_without_a_driver_gets_what_secure_boot_loads(
    look: Callable[..., Any], tmp_path: Path, last: bytes, mokutil: int, source: str, says: str
) -> None:
    secure_boot(tmp_path, last)
    told = look(mokutil=mokutil)
    assert (told["origin"], told["source"]) == (None, source)
    assert says in told["source_reason"]


def test_a_source_that_is_asked_for_is_taken(look: Callable[..., Any], tmp_path: Path) -> None:
    secure_boot(tmp_path, b"\1")
    assert look("cuda_repo")["source"] == "cuda_repo"
    assert look("ubuntu", dpkg_query=packages("libnvidia-compute-580\t580.126.20-0ubuntu1"))["source"] == "ubuntu"


@pytest.mark.parametrize(
    ("kernel", "there", "metas"),
    [
        ("6.8.0-51-generic", ["linux-image-generic", "linux-image-6.8.0-51-generic"], ["generic"]),
        ("6.14.0-33-generic", ["linux-image-generic-hwe-24.04"], ["generic-hwe-24.04"]),
        ("6.8.0-51-generic", ["linux-image-virtual"], ["generic"]),
        ("6.8.0-1021-aws", ["linux-image-aws", "linux-image-generic"], ["aws"]),
        ("6.8.0-51-generic", ["linux-image-generic-64k", "linux-image-6.8.0-51-generic"], []),
        ("6.18.44", ["linux-image-generic"], []),
    ],
)
def test_modules_follow_what_the_kernel_follows(
    look: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kernel: str, there: list[str], metas: list[str]
) -> None:
    release = os.uname_result(("Linux", "gpu01", kernel, "#1", "x86_64"))
    monkeypatch.setattr(os, "uname", lambda: release)
    assert look(dpkg_query=packages(*(f"{name}\t1" for name in there)))["kernel_metas"] == metas
