"""The packages of the lab's apt repositories: whole, closed, and chosen by the real apt as NVIDIA's would be."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path

import pytest

from migrate import bundled
from migrate.lab import LabError, apt, apt_packages

LAB = bundled.root() / "lab"
PACKAGES = apt_packages.read(LAB)
OURS = {"python3"}  # what gpu01 has and the repositories need not bring
RELATION = re.compile(r"(?P<name>[a-z0-9.+-]+)(?: \((?P<operator>>=|=) (?P<version>\S+)\))?")


def fields(package: apt_packages.Package) -> dict[str, str]:
    lines = [line for line in package.control.splitlines() if not line.startswith(" ")]
    return dict(line.split(": ", 1) for line in lines)


def is_met(name: str, operator: str | None, version: str) -> bool:
    """Whether some package of the repositories meets a dependency; versions are compared by dpkg."""
    found = [package.version for package in PACKAGES if package.name == name]
    if operator is None:
        return bool(found)
    compare = ["dpkg", "--compare-versions"]
    return any(subprocess.run([*compare, one, operator, version]).returncode == 0 for one in found)


def test_each_package_says_that_it_is_a_stand_in() -> None:
    for package in PACKAGES:
        assert "(stand-in)" in fields(package)["Description"]
        assert any(b"stand-in" in file.content for file in package.files if "/packages/" in file.path)


def test_no_package_is_there_twice() -> None:
    names = [(package.repository, package.file_name) for package in PACKAGES]
    assert len(set(names)) == len(names)


def test_driver_modules_are_of_the_kernel_that_runs_unless_no_package_can_be_called_so() -> None:
    name = "linux-modules-nvidia-580-server-open-6.8.0-51-generic"
    assert name in {package.name for package in apt_packages.read(LAB, "6.8.0-51-generic")}
    left = {package.name for package in apt_packages.read(LAB, "6.6.87-microsoft-standard-WSL2")}
    assert not any(name.startswith("linux-") for name in left)
    assert "nvidia-headless-no-dkms-580-server-open" in left


def test_dependencies_are_met_within_the_repositories() -> None:
    unmet = []
    for package in PACKAGES:
        for relation in filter(None, fields(package).get("Depends", "").split(", ")):
            match = RELATION.fullmatch(relation)
            assert match, relation
            if match["name"] not in OURS and not is_met(match["name"], match["operator"], match["version"]):
                unmet.append(f"{package.file_name}: {relation}")
    assert not unmet


def test_an_unmet_dependency_is_noticed() -> None:
    assert not is_met("nvidia-driver-580-open", "=", "580.1-0ubuntu1")
    assert not is_met("nvidia-driver-600-open", None, "")


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("570.172.08-0ubuntu1", "580.126.20-0ubuntu1"),
        ("580.126.20-0ubuntu1", "580.178.04-0ubuntu1"),
        ("580.178.04-0ubuntu1", "590.48.01-0ubuntu1"),
        ("2.26.2-1+cuda12.8", "2.26.5-1+cuda12.9"),
        ("2.26.5-1+cuda12.9", "2.28.9-1+cuda13.0"),
        ("1.19.1-1", "1.20.0-1"),
    ],
)
def test_versions_are_ordered_as_dpkg_orders_them(lower: str, higher: str) -> None:
    assert {lower, higher} <= {package.version for package in PACKAGES}
    assert subprocess.run(["dpkg", "--compare-versions", lower, "lt", higher]).returncode == 0


def test_the_nccl_that_never_was_is_not_there() -> None:
    assert "2.26.5-1+cuda12.8" not in {package.version for package in PACKAGES}


def test_dpkg_builds_every_package(tmp_path: Path) -> None:
    for name in ("cuda-keyring", "nvidia-stand-in", "nvidia-dkms-580-open", "cuda-toolkit-12-8"):
        package = next(package for package in PACKAGES if package.name == name)
        apt.write_tree(package, tmp_path / name)
        built = tmp_path / package.file_name
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tmp_path / name, built], check=True)
        told = subprocess.run(["dpkg-deb", "--field", built, "Package", "Version"], check=True, stdout=-1, text=True)
        assert told.stdout.split() == ["Package:", name, "Version:", package.version]


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "apt").mkdir()
    text = "groups: [{repository: cuda, packages: [{name: a, version: '1', summary: a, dependz: [b]}]}]"
    (tmp_path / "apt" / "packages.yml").write_text(text)
    with pytest.raises(LabError, match="dependz"):
        apt_packages.read(tmp_path)


class Apt:
    """The real apt-get over the repositories' indexes and a dpkg status of its own; it only simulates."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for directory in ("etc/apt/preferences.d", "etc/apt/sources.list.d", "state/lists/partial", "cache"):
            (root / directory).mkdir(parents=True)
        self.status("Package: python3\nStatus: install ok installed\nVersion: 3.13.5-1\nArchitecture: all\n")
        for repository in apt_packages.repositories(LAB):
            self._index(repository)
        self("update")

    def __call__(self, *words: str) -> str:
        options = {
            "Dir": self.root,
            "Dir::State": self.root / "state",
            "Dir::State::status": self.root / "status",
            "Dir::Cache": self.root / "cache",
            "Dir::Etc": self.root / "etc/apt",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "root",
            "Debug::NoLocking": "true",
        }
        argv = ["apt-get", "--simulate"] if words[0] == "install" else ["apt-get"]
        argv += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        done = subprocess.run(
            [*argv, *words], capture_output=True, text=True, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}
        )
        return done.stdout + done.stderr

    def status(self, text: str) -> None:
        (self.root / "status").write_text(text)

    def pin(self, package: str, path: str) -> None:
        """Lay down the preferences that a package would bring."""
        wanted = next(found for found in PACKAGES if found.name == package)
        content = next(file.content for file in wanted.files if file.path == path)
        (self.root / path.lstrip("/")).write_bytes(content)

    def installs(self, *words: str) -> dict[str, str]:
        """The version of each package that `apt-get install` would install."""
        return dict(re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+)", self("install", *words), re.MULTILINE))

    def _index(self, repository: apt_packages.Repository) -> None:
        directory = self.root / repository.name
        directory.mkdir()
        ours = [package for package in PACKAGES if package.repository == repository.name]
        pool = [f"{one.control}Filename: ./{one.file_name}\nSize: 1\nSHA256: {64 * '0'}\n" for one in ours]
        text = "\n".join(pool)
        (directory / "Packages").write_text(text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        release = f"Origin: {repository.origin}\nLabel: {repository.label}\nDate: Sat, 21 Nov 2026 00:00:00 UTC\n"
        (directory / "Release").write_text(f"{release}SHA256:\n {digest} {len(text)} Packages\n")
        line = f"deb [trusted=yes] file:{directory} /\n"
        (self.root / "etc/apt/sources.list.d" / f"{repository.name}.list").write_text(line)


@pytest.fixture
def machine(tmp_path: Path) -> Apt:
    return Apt(tmp_path)


def test_apt_takes_the_newest_of_a_branch(machine: Apt) -> None:
    found = machine.installs("nvidia-open-580")
    assert found["nvidia-dkms-580-open"] == found["libnvidia-compute-580"] == "580.178.04-0ubuntu1"
    assert not any("570" in name or version.startswith("590") for name, version in found.items())


def test_an_unversioned_driver_leaves_the_branch_unless_it_is_pinned(machine: Apt) -> None:
    assert machine.installs("nvidia-open")["nvidia-driver-open"] == "590.48.01-0ubuntu1"
    machine.pin("nvidia-driver-pinning-580", "/etc/apt/preferences.d/nvidia-driver-pinning-580")
    assert machine.installs("nvidia-open")["nvidia-driver-580-open"] == "580.178.04-0ubuntu1"


def test_cuda_without_a_pin_pulls_the_newest_driver(machine: Apt) -> None:
    assert machine.installs("cuda")["nvidia-dkms-open"] == "590.48.01-0ubuntu1"
    assert set(machine.installs("cuda-toolkit-12-8")) == {"cuda-toolkit-12-8"}


def test_an_exact_version_needs_its_pin_first(machine: Apt) -> None:
    assert machine.installs("nvidia-open-580=580.126.20-0ubuntu1") == {}
    name = "nvidia-driver-pinning-580.126.20"
    machine.pin(name, f"/etc/apt/preferences.d/{name}.pref")
    assert machine.installs("nvidia-open-580")["libnvidia-compute-580"] == "580.126.20-0ubuntu1"


def test_the_keyrings_pin_overrules_the_container_toolkits_repository(machine: Apt) -> None:
    assert machine.installs("nvidia-container-toolkit")["nvidia-container-toolkit"] == "1.20.0-1"
    machine.pin("cuda-keyring", "/etc/apt/preferences.d/cuda-repository-pin-600")
    assert machine.installs("nvidia-container-toolkit")["nvidia-container-toolkit"] == "1.19.1-1"


def test_ubuntus_modules_fit_ubuntus_driver(machine: Apt) -> None:
    kernel = os.uname().release
    wanted = (f"linux-modules-nvidia-580-server-open-{kernel}", "nvidia-headless-no-dkms-580-server-open")
    found = machine.installs(*wanted)
    assert found[wanted[0]] == f"{kernel}+2"
    assert found["libnvidia-compute-580-server"] == "580.173.02-0ubuntu0.24.04.1"
    assert not any("dkms" in name for name in found if name != wanted[1])
    assert machine.installs(wanted[0], f"{wanted[1]}=580.159.03-0ubuntu0.24.04.1") == {}


def test_branches_and_flavours_replace_each_other(machine: Apt) -> None:
    held = [one for one in PACKAGES if one.version == "570.172.08-0ubuntu1" or one.name == "nvidia-stand-in"]
    machine.status("\n".join(f"{one.control}Status: install ok installed\n" for one in held))
    told = machine("install", "cuda-drivers-580")
    assert "Remv nvidia-dkms-570-open" in told
    assert "Remv libnvidia-compute-570" in told
    assert "Inst nvidia-dkms-580 " in told
