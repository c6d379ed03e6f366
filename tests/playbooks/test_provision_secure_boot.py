"""Where a driver comes from by Secure Boot: the roles, real apt, and the lab's stand-ins of both origins."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from migrate import bundled
from migrate.lab import apt_packages
from tests.playbooks.apt_root import AptRoot, Deb, is_possible
from tests.playbooks.conftest import PLAYBOOKS
from tests.playbooks.role_play import Play, player

pytestmark = pytest.mark.skipif(not is_possible(), reason="needs root, apt, dpkg and gpg")

KERNEL = os.uname().release
LABELS = {"cuda": "NVIDIA CUDA", "ubuntu": "Ubuntu"}
DRIVER = ("nvidia-stand-in", "nvidia-driver-pinning-580", "libnvidia-", "linux-", "nvidia-headless-", "nvidia-kernel-")
DRIVER += ("nvidia-open", "nvidia-driver-5", "nvidia-dkms-5", "nvidia-utils-5", "nvidia-compute-utils-5")
UNUSED = ("580.126.20", "590.")
MODULES = f"linux-modules-nvidia-580-server-open-{KERNEL}"
# What the updates of this kernel follow, as generic for 6.8.0-51-generic; this machine's need not be Ubuntu's.
FLAVOUR = "-".join(KERNEL.split("-")[2:])
META = f"linux-modules-nvidia-580-server-open-{FLAVOUR}"
IMAGE = Deb(f"linux-image-{FLAVOUR}", "6.8")
UBUNTU_580 = "580.173.02-0ubuntu0.24.04.1"
ASKED = ("__gpu_driver_plan", "__gpu_driver_now", "__gpu_driver_changed", "__gpu_driver_restored")


def debs(repository: str) -> list[Deb]:
    """The lab's driver packages of one repository; scripts and links are left out."""
    found = [one for one in apt_packages.read(bundled.root() / "lab") if one.repository == repository]
    return [_deb(one) for one in found if one.name.startswith(DRIVER) and not one.version.startswith(UNUSED)]


def _deb(package: apt_packages.Package) -> Deb:
    lines = [line.split(": ", 1) for line in package.control.splitlines() if not line.startswith(" ")]
    fields = {key: value for key, value in lines if key in ("Depends", "Provides", "Conflicts", "Replaces")}
    return Deb(package.name, package.version, fields, {f.path: f.content.decode() for f in package.files if not f.link})


class Host:
    """A root with apt, the lab's repositories and firmware, and role gpu_driver on it."""

    def __init__(self, folder: Path, play: Play, apt: AptRoot) -> None:
        self.folder, self.apt, self.play = folder, apt, play
        self.tools = folder / "tools"
        self.tools.mkdir()
        for name in ("modinfo", "mokutil"):
            program = apt.root / "usr/local/lib/nvidia-stand-in" / name
            (self.tools / name).write_text(f'#!/bin/sh\nNVIDIA_STAND_IN_ROOT={apt.root} exec sh {program} "$@"\n')
            (self.tools / name).chmod(0o755)
        apt.install("nvidia-stand-in")

    def boot(self, *, secure: bool = False, mok: bool = False) -> None:
        """Load what is installed, with this firmware."""
        requests = self.apt.root / "etc/nvidia-stand-in"
        requests.mkdir(exist_ok=True)
        (requests / "secure_boot").write_text("enabled\n" if secure else "disabled\n")
        (requests / "mok").write_text("enrolled\n" if mok else "none\n")
        script = str(self.apt.root / "usr/share/nvidia-stand-in/load")
        subprocess.run(["sh", script], env={**os.environ, "NVIDIA_STAND_IN_ROOT": str(self.apt.root)}, check=True)

    def loaded(self) -> str:
        module = self.apt.root / "run/nvidia-stand-in/module"
        return module.read_text().strip() if module.exists() else ""

    def driver(self, *more: str, tasks: str = "present", **variables: Any) -> dict[str, Any]:
        """What role gpu_driver does, or with `--check` would do."""
        listed = yaml.safe_load((PLAYBOOKS / "roles/provision/vars/main.yml").read_text())
        given = {
            "packages": listed["__provision_driver_packages"],
            "root": str(self.apt.root / "run/nvidia-stand-in/root"),
            "tools": str(self.tools),
            "record_dir": str(self.folder / "records"),
            "kernel_headers": False,
            "boot_free_mib": 0,
            "allow_reboot": "absent" in tasks,
        }
        asked = {f"gpu_driver_{name}": value for name, value in (given | variables).items()}
        return self.play(f"gpu_driver/{tasks}", *more, facts=ASKED, **asked)

    def would(self, **variables: Any) -> dict[str, Any]:
        """What the role would do; a change ends at the reboot that it has no leave for."""
        told = self.driver("--check", **variables)
        assert told["msg"] == "" or "The driver needs a reboot" in told["msg"], told["msg"]
        assert bool(told["msg"]) == bool(changes(told))
        return told

    def refused(self, says: str, **variables: Any) -> str:
        """The message of a plan that is refused and leaves the host as it was."""
        before = self.apt.versions()
        told = self.driver("--check", **variables)
        assert says in told["msg"], told["msg"]
        assert (self.apt.versions(), (self.folder / "records").exists()) == (before, False)
        return str(told["msg"])

    def forget(self, repository: str) -> None:
        """Take a repository out of apt's lists."""
        (self.apt.root / f"etc/apt/sources.list.d/{repository}.list").unlink()
        self.apt.must("apt-get", "update")


def changes(told: dict[str, Any]) -> dict[str, str | None]:
    return {change["name"]: change["after"] for change in told["facts"]["__gpu_driver_plan"]["changes"]}


@pytest.fixture
def apt(tmp_path: Path) -> Iterator[AptRoot]:
    root = AptRoot(tmp_path)
    yield root
    root.close()


@pytest.fixture
def make(apt: AptRoot, tmp_path: Path) -> Callable[..., Host]:
    """A host that knows both repositories, with more packages in Ubuntu's or without some."""

    def build(*more: Deb, without: tuple[str, ...] = ()) -> Host:
        for name, label in LABELS.items():
            packages = [deb for deb in debs(name) if not deb.name.startswith(without or ("none",))]
            origin = "Ubuntu" if name == "ubuntu" else "NVIDIA"
            own = list(more) if name == "ubuntu" else []
            apt.know(apt.repository(name, [*packages, *own], label=label, origin=origin), name=name)
        return Host(tmp_path, player(apt, tmp_path), apt)

    return build


@pytest.mark.skipif(not FLAVOUR, reason="the kernel's release names no flavour")
def test_under_secure_boot_the_signed_driver_comes_loads_stays_and_goes(make: Callable[..., Host]) -> None:
    host = make(
        IMAGE, Deb(META, f"{KERNEL}+2", {"Depends": MODULES}), without=("linux-modules-nvidia-580-server-open-g",)
    )
    host.apt.install(IMAGE.name)
    host.boot(secure=True)
    before = host.apt.versions()

    planned = host.would()
    assert "is not enrolled" in planned["facts"]["__gpu_driver_now"]["source_reason"]
    assert {changes(planned).get(name) for name in (MODULES, META)} == {f"{KERNEL}+2"}
    assert changes(planned)["nvidia-headless-no-dkms-580-server-open"] == UBUNTU_580
    assert not any("dkms" in name and "no-dkms" not in name for name in changes(planned))
    assert host.apt.versions() == before

    assert host.driver(tasks="look+install")["msg"] == ""
    brought = {name: version for name, version in host.apt.versions().items() if name not in before}
    assert brought == changes(planned)
    assert host.loaded() == ""
    host.boot(secure=True)
    assert host.loaded() == "580.173.02 open"

    again = host.driver(tasks="look+install")
    assert (again["msg"], again["facts"]["__gpu_driver_changed"]["changes"]) == ("", [])
    assert changes(host.would()) == {}

    assert host.driver(tasks="absent")["msg"] == ""
    assert host.apt.versions() == before


@pytest.mark.parametrize("mok", [None, True], ids=["Secure Boot off", "key enrolled"])
def test_modules_that_would_load_are_built_here(make: Callable[..., Host], *, mok: bool | None) -> None:
    host = make()
    host.boot(secure=bool(mok), mok=bool(mok))
    told = host.would()
    assert changes(told)["nvidia-dkms-580-open"] == "580.178.04-0ubuntu1"
    assert changes(told)["nvidia-driver-pinning-580"] == "580-1ubuntu1"
    assert not any("server" in name for name in changes(told))


def test_an_installed_driver_never_crosses_to_load_under_secure_boot(make: Callable[..., Host]) -> None:
    host = make()
    host.apt.install("nvidia-open-570")
    host.boot(secure=True)
    told = host.refused("sudo mokutil --import")
    assert "By itself it never crosses" in told
    assert "provision_driver_source: ubuntu" in told
    host.refused("is from NVIDIA CUDA, asked for is 'Ubuntu'", source="ubuntu")
    host.boot(secure=True, mok=True)
    assert changes(host.would())["nvidia-dkms-580-open"] == "580.178.04-0ubuntu1"


def test_a_reboot_into_modules_that_would_not_load_is_refused(make: Callable[..., Host]) -> None:
    host = make()
    host.apt.install("nvidia-open-580")
    host.boot(secure=True)
    host.refused("sudo mokutil --import")


def test_ubuntus_driver_stays_ubuntus_where_any_module_would_load(make: Callable[..., Host]) -> None:
    host = make()
    host.apt.install(
        f"{MODULES}={KERNEL}+1",
        f"linux-objects-nvidia-580-server-open-{KERNEL}={KERNEL}+1",
        f"linux-signatures-nvidia-{KERNEL}={KERNEL}+1",
        "nvidia-kernel-common-580-server=580.159.03-0ubuntu0.24.04.1",
        "libnvidia-compute-580-server=580.159.03-0ubuntu0.24.04.1",
    )
    host.boot()
    told = host.would(version="580.173.02")
    assert told["facts"]["__gpu_driver_now"]["source"] == "ubuntu"
    assert changes(told)[MODULES] == f"{KERNEL}+2"
    host.refused("is from Ubuntu, asked for is 'NVIDIA CUDA'", source="cuda_repo", version="580.178.04")


def test_built_modules_that_are_asked_for_are_refused_with_the_signed_ones(make: Callable[..., Host]) -> None:
    host = make()
    host.boot(secure=True)
    assert "purge" not in host.refused("take signed modules: provision_driver_source: ubuntu", source="cuda_repo")


def test_a_kernel_without_prebuilt_modules_is_refused_by_name_with_those_that_there_are(
    make: Callable[..., Host],
) -> None:
    other = Deb("linux-modules-nvidia-580-server-open-6.8.0-51-generic", "6.8.0-51.52+1")
    host = make(other, without=("linux-",))
    host.boot()
    told = host.refused(f"no source knows a package {MODULES} from 'Ubuntu'", source="ubuntu")
    assert f"Names that begin with linux-modules-nvidia-580-server-open: {other.name}" in told


@pytest.mark.skipif(not FLAVOUR, reason="the kernel's release names no flavour")
def test_a_driver_never_brings_another_kernel(make: Callable[..., Host]) -> None:
    newer = Deb("linux-image-99.0.0-1-generic", "99.0.0-1.1")
    host = make(newer, Deb(META, "99.0.0-1.1", {"Depends": newer.name}), IMAGE)
    host.apt.install(IMAGE.name)
    host.boot(secure=True)
    host.refused(f"would bring {newer.name}")


def test_a_source_that_apt_does_not_know_is_not_promised(make: Callable[..., Host]) -> None:
    host = make()
    host.boot(secure=True)
    host.forget("ubuntu")
    host.refused(f"no source knows a package {MODULES} from 'Ubuntu'")


@pytest.mark.parametrize("secure", [True, False])
def test_the_repository_gives_the_driver_where_the_driver_is_its(
    make: Callable[..., Host], tmp_path: Path, *, secure: bool
) -> None:
    """Role provision asks the same module before it adds the CUDA repository."""
    host = make()
    host.boot(secure=secure)
    for role, given in {"cuda_repository": "cuda_repository_gives_driver", "gpu_driver": "gpu_driver_source"}.items():
        folder = tmp_path / "roles" / role / "tasks"
        folder.mkdir(parents=True)
        note = {"content": f"{{{{ {given} }}}}", "dest": str(tmp_path / given), "mode": "0600"}
        (folder / "main.yml").write_text(yaml.safe_dump([{"name": "Note", "ansible.builtin.copy": note}]))
    told = host.play(
        "provision/managed",
        facts=("__provision_done",),
        provision_manage=["driver"],
        provision_gpu_root=str(host.apt.root / "run/nvidia-stand-in/root"),
        provision_gpu_tools=str(host.tools),
        provision_record_dir=str(tmp_path / "records"),
        triton_container="triton",
        triton_compose_file="/x",
        triton_compose_project="x",
        triton_compose_service="x",
        triton_http_port=8000,
    )
    assert told["msg"] == ""
    managed = ["driver"] if secure else ["cuda_repository", "driver"]
    assert told["facts"]["__provision_done"] == managed
    assert (tmp_path / "gpu_driver_source").read_text() == "auto"
    gives = tmp_path / "cuda_repository_gives_driver"
    assert gives.exists() is not secure
    assert secure or gives.read_text() == "True"
