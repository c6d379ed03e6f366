"""A kernel module that cannot be built: the driver goes back, or the message says how it does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.playbooks.apt_root import AptRoot, Deb, is_possible
from tests.playbooks.role_play import player

pytestmark = pytest.mark.skipif(not is_possible(), reason="needs root, apt, dpkg and gpg")

DRIVER = ["nvidia-open*", "nvidia-dkms-*"]
# DKMS, as far as dpkg sees it: the branches in this file are not built.
UNBUILT = "etc/unbuilt"
BUILD = f"""[ "$1" = configure ] || exit 0
grep -qs {{branch}} "$DPKG_ROOT/{UNBUILT}" || exit 0
echo "Error! Bad return status for module build on kernel" >&2
exit 10"""
PIN = "etc/apt/preferences.d/nvidia-driver-pinning-580"


def driver(version: str) -> list[Deb]:
    branch, full = version[:3], f"{version}-0ubuntu1"
    alone = {key: "nvidia-dkms-kernel" for key in ("Provides", "Conflicts", "Replaces")}
    return [
        Deb(f"nvidia-open-{branch}", full, {"Depends": f"nvidia-dkms-{branch}-open (= {full})"}),
        Deb(f"nvidia-dkms-{branch}-open", full, alone, scripts={"postinst": BUILD.format(branch=branch)}),
    ]


@pytest.fixture
def apt(tmp_path: Path) -> Iterator[AptRoot]:
    """A host with driver 570."""
    root = AptRoot(tmp_path)
    pin = "Package: nvidia-*\nPin: version 580.*\nPin-Priority: 1000\n"
    pinning = Deb("nvidia-driver-pinning-580", "580-1ubuntu1", {}, {f"/{PIN}": pin, "/DEBIAN/conffiles": f"/{PIN}\n"})
    root.know(root.repository("cuda", [*driver("570.172.08"), *driver("580.178.04"), pinning], label="NVIDIA CUDA"))
    root.install("nvidia-open-570")
    yield root
    root.close()


def install(apt: AptRoot, folder: Path) -> str:
    """Let the role install driver 580; returns why it ended."""
    told = player(apt, folder)(
        "gpu_driver/look+install",
        gpu_driver_packages=DRIVER,
        gpu_driver_source="cuda_repo",
        gpu_driver_root=str(apt.root),
        gpu_driver_tools=str(folder),
        gpu_driver_record_dir=str(folder / "records"),
        gpu_driver_kernel_headers=False,
        gpu_driver_boot_free_mib=0,
    )
    return str(told["msg"])


def test_where_only_the_new_module_is_not_built_the_old_driver_is_back(apt: AptRoot, tmp_path: Path) -> None:
    before = apt.versions()
    (apt.root / UNBUILT).write_text("580\n")
    why = install(apt, tmp_path)
    assert "module build on kernel" in why
    assert "put back to their versions before. The loaded driver was never touched" in why
    assert "dkms status" in why
    assert (apt.versions(), apt.must("dpkg", "--audit")) == (before, "")
    assert not (apt.root / PIN).exists()


def test_where_no_module_is_built_any_more_the_remedy_brings_the_old_driver_back(apt: AptRoot, tmp_path: Path) -> None:
    before = apt.versions()
    (apt.root / UNBUILT).write_text("570\n580\n")
    why = install(apt, tmp_path)
    assert "nvidia-dkms-580-open" in why
    assert "Going back failed too" in why
    assert "Nothing was changed" not in why
    assert "Repair the cause, then: sudo apt-get install --fix-broken" in why
    (apt.root / UNBUILT).unlink()
    apt.install("--fix-broken")
    assert (apt.versions(), apt.must("dpkg", "--audit")) == (before, "")
    assert not (apt.root / PIN).exists()
