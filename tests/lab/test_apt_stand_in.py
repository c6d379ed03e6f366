"""The driver's stand-in, run by sh over a root of its own: what is installed, what a boot loads, and the traps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from migrate import bundled
from migrate.lab import apt, apt_packages

PACKAGES = apt_packages.read(bundled.root() / "lab")
GPU = "--query-gpu=name,memory.total,driver_version"
PLAIN = "--format=csv,noheader,nounits"


class Host:
    """A root directory with packages laid into it, as dpkg would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.install("nvidia-stand-in")

    def install(self, *names: str, version: str = "") -> None:
        """Lay down packages; the newest of those with the name unless a version is given."""
        for name in names:
            found = [one for one in PACKAGES if one.name == name and version in one.version]
            for file in found[-1].files:
                (self.root / file.path.lstrip("/")).unlink(missing_ok=True)
            apt.write_tree(found[-1], self.root)

    def driver(self, suffix: str = "-580", flavour: str = "-open", version: str = "") -> None:
        """The packages of a driver that hold files."""
        names = (f"nvidia-dkms{suffix}{flavour}", f"libnvidia-compute{suffix}", f"nvidia-utils{suffix}")
        self.install(*names, version=version)

    def boot(self) -> None:
        """What nvidia-stand-in.service does."""
        self.run("/usr/share/nvidia-stand-in/load")

    def ask(self, name: str, text: str) -> None:
        """Set a trap."""
        path = self.root / "etc" / "nvidia-stand-in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def run(self, path: str, *words: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a program of the root."""
        argv = ["sh", str(self.root / path.lstrip("/")), *words]
        environment = {"NVIDIA_STAND_IN_ROOT": str(self.root), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(argv, capture_output=True, text=True, env=environment)
        return done.returncode, done.stdout.strip(), done.stderr.strip()

    def smi(self, *words: str) -> tuple[int, str, str]:
        return self.run("/usr/bin/nvidia-smi", *words)

    def tool(self, name: str, *words: str) -> tuple[int, str, str]:
        return self.run(f"/usr/local/lib/nvidia-stand-in/{name}", *words)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def booted(host: Host) -> Host:
    host.driver()
    host.boot()
    return host


def test_it_says_that_it_is_a_stand_in(booted: Host) -> None:
    for words in ((), ("-L",), (GPU, PLAIN), ("--help",)):
        rc, out, err = booted.smi(*words)
        assert rc == 0
        assert "stand-in" in out + err


def test_a_list_of_cards(booted: Host) -> None:
    booted.ask("count", "2")
    _, out, _ = booted.smi("-L")
    first, second = out.splitlines()
    assert first.startswith("GPU 0: NVIDIA GeForce RTX 5090 (UUID: GPU-")
    assert second.startswith("GPU 1: ")
    assert booted.smi("-i", "1", "-L")[1] == second


def test_queries(booted: Host) -> None:
    assert booted.smi(GPU, PLAIN)[1] == "NVIDIA GeForce RTX 5090, 32607, 580.178.04"
    booted.ask("card", "H200")
    told = booted.smi("--query-gpu=name,memory.total,compute_cap", "--format=csv")[1]
    assert told == "name, memory.total [MiB], compute_cap\nNVIDIA H200, 143771 MiB, 9.0"


def test_a_request_overrides_a_column(booted: Host) -> None:
    booted.ask("field.persistence_mode", "[N/A]")
    assert booted.smi("--query-gpu=persistence_mode", PLAIN)[1] == "[N/A]"


def test_processes_use_memory(booted: Host) -> None:
    assert booted.smi("--query-compute-apps=pid", PLAIN)[:2] == (0, "")
    booted.ask("processes", "417, tritonserver, 1000\n418, python3, 24")
    told = booted.smi("--query-compute-apps=pid,process_name,used_gpu_memory", "--format=csv,noheader")[1]
    assert told == "417, tritonserver, 1000 MiB\n418, python3, 24 MiB"
    assert booted.smi("--query-gpu=memory.used,memory.free", PLAIN)[1] == f"1026, {32607 - 1026}"


@pytest.mark.parametrize("words", [("--query-gpu=colour", PLAIN), (GPU, "--format=xml"), ("--paint",)])
def test_what_it_does_not_know_is_refused(booted: Host, words: tuple[str, ...]) -> None:
    assert booted.smi(*words)[0] == 2


def test_persistence_mode_can_be_set(booted: Host) -> None:
    assert booted.smi("--query-gpu=persistence_mode", PLAIN)[1] == "Disabled"
    assert booted.smi("-pm", "1")[0] == 0
    assert booted.smi("--query-gpu=persistence_mode", PLAIN)[1] == "Enabled"


def test_nothing_is_loaded_before_a_boot(host: Host) -> None:
    host.driver()
    rc, out, err = host.smi("-L")
    assert (rc, err) == (9, "")
    assert "couldn't communicate with the NVIDIA driver" in out


def test_a_new_driver_is_a_mismatch_until_the_next_boot(host: Host) -> None:
    host.driver("-570")
    host.boot()
    assert host.smi(GPU, PLAIN)[1].endswith("570.172.08")
    host.driver("-580")
    assert host.smi("-L")[:2] == (
        18,
        "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.178",
    )
    assert host.tool("modinfo", "-F", "version", "nvidia")[1] == "580.178.04"
    assert "570.172.08" in host.tool("proc-version")[1]
    host.boot()
    assert host.smi(GPU, PLAIN)[1].endswith("580.178.04")
    assert (host.root / "run/nvidia-stand-in/root/sys/module/nvidia/version").read_text() == "580.178.04\n"


def test_the_wrong_branch_shows(host: Host) -> None:
    host.driver("")
    host.boot()
    assert host.smi(GPU, PLAIN)[1].endswith("590.48.01")


@pytest.mark.parametrize(("card", "rc"), [("RTX 5090", 6), ("H200", 0)])
def test_the_proprietary_flavour_finds_no_blackwell(host: Host, card: str, rc: int) -> None:
    host.ask("card", card)
    host.driver(flavour="")
    host.boot()
    assert host.smi("-L")[0] == rc
    assert host.tool("modinfo", "-F", "license", "nvidia")[1] == "NVIDIA"
    assert ("No devices were found" in host.smi("-L")[1]) == (rc == 6)
    assert ("requires use of the NVIDIA open kernel modules" in host.tool("dmesg")[1]) == (rc == 6)


def test_secure_boot_rejects_a_module_whose_key_is_not_enrolled(host: Host) -> None:
    host.ask("secure_boot", "enabled")
    host.driver()
    host.boot()
    assert host.tool("mokutil", "--sb-state")[1] == "SecureBoot enabled"
    assert host.smi("-L")[0] == 9
    assert "Key was rejected by service" in host.tool("dmesg")[1]
    assert host.tool("proc-version")[0] == 1
    variable = next((host.root / "run/nvidia-stand-in/root/sys/firmware/efi/efivars").iterdir())
    assert variable.read_bytes() == b"\6\0\0\0\1"
    host.ask("mok", "enrolled")
    host.boot()
    assert host.smi("-L")[0] == 0


def test_secure_boot_loads_what_canonical_signed(host: Host) -> None:
    host.ask("secure_boot", "enabled")
    kernel = f"linux-modules-nvidia-580-server-open-{os.uname().release}"
    host.install(kernel, "libnvidia-compute-580-server", "nvidia-utils-580-server")
    assert host.smi("-L")[0] == 9
    host.boot()
    assert host.smi(GPU, PLAIN)[1].endswith("580.173.02")
    assert host.tool("modinfo", "-F", "signer", "nvidia")[1] == "Canonical Ltd. Kernel Module Signing"
    host.install("nvidia-dkms-580-open")
    assert host.tool("modinfo", "-F", "signer", "nvidia")[1] == "DKMS module signing key"
    host.boot()
    assert host.smi("-L")[0] == 9


def test_the_root_for_readers_shows_nouveau_headers_and_users(host: Host) -> None:
    root = host.root / "run/nvidia-stand-in/root"
    host.ask("nouveau", "loaded")
    host.ask("processes", "417, Xorg, 100")
    host.boot()
    assert (root / "proc/modules").read_text().startswith("nouveau ")
    assert (root / "proc/417/comm").read_text() == "Xorg\n"
    assert str((root / "proc/417/fd/3").readlink()) == "/dev/nvidia0"
    assert len(list((root / "lib/modules").glob("*/build"))) == 1
    host.ask("dkms_build", "failed")
    host.boot()
    assert not (root / "lib").exists()


def test_failures_on_request(booted: Host) -> None:
    booted.ask("failure", "unknown_error")
    assert booted.smi("-L")[:2] == (255, "Failed to initialize NVML: Unknown Error")
    booted.ask("failure", "gpu_lost")
    assert booted.smi("-L")[0] == 15


def test_without_its_library_it_says_so(booted: Host) -> None:
    (booted.root / "usr/share/nvidia-stand-in/library").unlink()
    assert booted.smi("-L")[0] == 12


def test_the_open_flavour_is_told_by_its_licence(booted: Host) -> None:
    assert booted.tool("modinfo", "-F", "license", "nvidia")[1] == "Dual MIT/GPL"
    assert "Open Kernel Module" in booted.tool("proc-version")[1]
    assert "10de:2b85" in booted.tool("lspci", "-nn")[1]


def test_removed_packages_leave_no_module_behind(booted: Host) -> None:
    (booted.root / "usr/share/nvidia-stand-in/module").unlink()
    booted.boot()
    assert booted.tool("modinfo", "nvidia")[0] == 1
    assert not (booted.root / "run/nvidia-stand-in/module").exists()


def test_the_compiler_knows_its_version(host: Host) -> None:
    host.install("cuda-toolkit-12-8")
    assert "release 12.8, V12.8.93" in host.run("/usr/local/cuda-12.8/bin/nvcc", "--version")[1]
    told = json.loads((host.root / "usr/local/cuda-12.8/version.json").read_text())
    assert told["cuda"]["version"] == "12.8.1"


def test_the_container_toolkit_keeps_what_docker_was_told(host: Host, tmp_path: Path) -> None:
    host.install("nvidia-container-toolkit-base")
    config = tmp_path / "daemon.json"
    config.write_text('{"live-restore": true}')
    words = ["runtime", "configure", "--runtime=docker", f"--config={config}", "--cdi.enabled"]
    argv = [sys.executable, str(host.root / "usr/bin/nvidia-ctk"), *words]
    shown = subprocess.run([*argv, "--dry-run"], check=True, capture_output=True, text=True).stdout
    assert json.loads(config.read_text()) == {"live-restore": True}
    subprocess.run(argv, check=True, capture_output=True)
    assert json.loads(config.read_text()) == json.loads(shown)
    assert json.loads(shown)["runtimes"]["nvidia"]["path"] == "nvidia-container-runtime"
    assert json.loads(shown)["features"] == {"cdi": True}
    assert json.loads(shown)["live-restore"] is True
