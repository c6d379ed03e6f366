"""From driver 570 to 580 and back, under clients: apt, pins, holds and reboots are real, the driver is a stand-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from migrate import bundled

from .conftest import Lab, on_gpu01
from .test_migration import witness

pytestmark = pytest.mark.e2e
APT = "http://apt.lab:5080"
PARTS = ["docker_engine", "cuda_toolkit", "nccl", "container_toolkit", "driver", "package_hold"]
SETTINGS: dict[str, Any] = {
    "provision_manage": PARTS,
    "provision_allow_reboot": True,
    "provision_gap_s": 180,
    "provision_reboot_timeout_s": 180,
    "provision_kernel_headers": False,
    "provision_gpu_root": "/run/nvidia-stand-in/root",
    "provision_gpu_tools": "/usr/local/lib/nvidia-stand-in",
    "provision_cuda_repository_url": f"{APT}/cuda/",
    "provision_cuda_keyring_sha256": "",
    "provision_container_toolkit_repository_url": f"{APT}/libnvidia-container/",
    "provision_container_toolkit_key_url": f"{APT}/libnvidia-container/gpgkey",
}
WANTED = {
    "nvidia-open-580": "580.178.04-0ubuntu1",
    "libnvidia-compute-580": "580.178.04-0ubuntu1",
    "nvidia-driver-pinning-580": "580-1ubuntu1",
    "cuda-toolkit-12-8": "12.8.1-1",
    "libnccl2": "2.26.5-1+cuda12.9",
    "libnccl-dev": "2.26.5-1+cuda12.9",
    "nvidia-container-toolkit": "1.20.0-1",
    "libnvidia-container1": "1.20.0-1",
}
OURS = "nvidia|libnvidia|cuda|libnccl"
LIST = "/etc/apt/sources.list.d/cuda-ubuntu2404-x86_64.list"
INSTALL_570 = f"""
export DEBIAN_FRONTEND=noninteractive
curl -fsS -o /tmp/keyring.deb {APT}/cuda/cuda-keyring_1.1-1_all.deb
dpkg -i /tmp/keyring.deb >/dev/null
rm /tmp/keyring.deb
apt-get update -qq -o Dir::Etc::sourceparts=- -o Dir::Etc::sourcelist={LIST}
apt-get install -qq -y nvidia-open-570 >/dev/null
(sleep 1; systemctl reboot) >/dev/null 2>&1 &
"""
PURGE = f"""
export DEBIAN_FRONTEND=noninteractive
dpkg-query -W -f '${{Package}}\\n' | grep -E '^({OURS})' |
  xargs -r apt-get purge -qq -y --allow-change-held-packages >/dev/null
cd /etc/apt
rm -rf sources.list.d/cuda* sources.list.d/nvidia* preferences.d/cuda* preferences.d/nvidia* preferences.d/migrate* \\
  apt.conf.d/52migrate-hold /etc/modprobe.d/migrate-nouveau.conf /var/lib/migrate/provision
cd /usr/share/keyrings
rm -f cuda* nvidia*
"""


# What the firmware and the kernel would say, as the stand-in is asked to; `load` writes that down as at a boot.
FIRMWARE = """
ask() {
    mkdir -p /etc/nvidia-stand-in
    if [ $# -gt 1 ]; then echo "$2" >"/etc/nvidia-stand-in/$1"; else rm "/etc/nvidia-stand-in/$1"; fi
    systemctl restart nvidia-stand-in
}
"""
# A package of which dpkg only gets half the way.
HALF = r"""
mkdir -p /tmp/half/DEBIAN
printf 'Package: half\nVersion: 1\nArchitecture: all\nMaintainer: lab\nDescription: fails\n' >/tmp/half/DEBIAN/control
printf '#!/bin/sh\nexit 1\n' >/tmp/half/DEBIAN/postinst
chmod 0755 /tmp/half/DEBIAN/postinst
dpkg-deb -b /tmp/half /tmp/half.deb >/dev/null
dpkg -i /tmp/half.deb >/dev/null 2>&1 || true
rm -r /tmp/half /tmp/half.deb
"""
# dpkg's lock is one of fcntl(2), which flock(1) does not take.
OTHER_APT = """
systemd-run -q --unit other-apt python3 -c '
import fcntl, signal
file = open("/var/lib/dpkg/lock-frontend", "w")
fcntl.lockf(file, fcntl.LOCK_EX)
signal.pause()'
until grep -q "POSIX .* $(systemctl show -P MainPID other-apt) " /proc/locks; do sleep 0.1; done
"""
TRITON = "docker inspect -f '{{.Id}} {{.State.StartedAt}}' triton-triton-1"
# What a refused plan leaves alone: packages, what apt and Docker are told, and the containers that serve.
AS_IT_WAS = r"""
dpkg-query -W -f '${Package} ${Version} ${db:Status-Abbrev}\n'
find /etc/apt /etc/docker /etc/modprobe.d /usr/share/keyrings /var/lib/apt /var/cache/apt /var/lib/migrate -type f \
  -exec sha256sum {} + 2>/dev/null || true
"""


def packages() -> dict[str, str]:
    """Installed packages of NVIDIA's names, with their versions."""
    listed = on_gpu01(r"dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\n'").splitlines()
    rows = (line.split() for line in listed)
    return {row[0]: row[1] for row in rows if row[-1] == "installed" and row[0].startswith(tuple(OURS.split("|")))}


def loaded() -> str:
    return on_gpu01("cat /run/nvidia-stand-in/module 2>/dev/null || true").strip()


def boots() -> int:
    """How often the host, which is a container, has booted since it was made."""
    asked = ["docker", "inspect", "--format", "{{.RestartCount}}", "migrate-lab-gpu01"]
    return int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)


def generates() -> bool:
    """Whether Triton answers on the public port."""
    answer = 'curl -fs -m 5 -d \'{"text_input": "a", "max_tokens": 1}\' 127.0.0.1/v2/models/phi2/generate'
    return "text_output" in on_gpu01(f"{answer} || true")


def wait_for_triton() -> None:
    for _ in range(120):
        try:
            if generates():
                return
        except Exception:
            time.sleep(1)
        time.sleep(1)
    raise AssertionError("Triton did not come back")


@pytest.fixture(scope="module")
def host_with_570(lab_up: None) -> Iterator[None]:
    """gpu01 with driver 570 loaded, no toolkit, no NCCL; afterwards without any of them, as it was."""
    on_gpu01(INSTALL_570)
    time.sleep(5)
    wait_for_triton()
    assert loaded().startswith("570.")
    yield
    on_gpu01(PURGE)


@pytest.fixture
def with_570(host_with_570: None, changed_lab: Lab) -> Iterator[Lab]:
    """The same, and an operator's directory; whatever a test left behind is taken back."""
    yield changed_lab
    changed_lab.migrate("rollback", "--host", "gpu01", "--to", "before-provision", "--yes")


def provisioned(lab: Lab) -> dict[str, Any]:
    """What the latest run's journal says of the phase."""
    newest = sorted(lab.directory.glob("runs/*-gpu01-*/journal.jsonl"))[-1]
    records = [json.loads(line) for line in newest.read_text().splitlines()]
    found: dict[str, Any] = [r for r in records if (r["kind"], r["phase"]) == ("outcome", "provision")][-1]["data"]
    return found


REFUSED: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "branch": ({"provision_driver_branch": "585"}, "", "", "no source knows a package nvidia-driver-pinning-585"),
    "version": ({"provision_nccl_version": "2.26.5-1+cuda12.8"}, "", "", "Candidates: 2.28.9-1+cuda13.0"),
    "hold": ({}, "apt-mark hold nvidia-open-570", "apt-mark unhold nvidia-open-570", "apt-mark unhold nvidia-open-570"),
    "reboot": ({"provision_allow_reboot": False}, "", "", "provision_allow_reboot: true"),
    "secure boot": ({}, "ask secure_boot enabled", "ask secure_boot", "provision_driver_source: ubuntu"),
    "another user of the card": ({}, "ask processes '4242, train.py, 800'", "ask processes", "train.py"),
    "broken dpkg": ({}, HALF, "dpkg --purge half", "sudo dpkg --configure -a"),
    "another apt": (
        {"provision_lock_timeout_s": 1},
        OTHER_APT,
        "systemctl stop other-apt",
        "has held /var/lib/dpkg/lock-frontend for 1 s. Wait for it to end",
    ),
    "signature": (
        {
            "provision_manage": ["container_toolkit"],
            "provision_container_toolkit_repository_url": f"{APT}/tampered/",
            "provision_container_toolkit_key_url": f"{APT}/cuda/gpgkey",
        },
        *("", ""),
        "See that the host reaches it and that the key is its own",
    ),
    "no room in /boot": (
        {"provision_manage": ["driver"]},
        "mount -t tmpfs -o size=16m lab /boot",
        "umount /boot",
        "sudo apt-get autoremove --purge",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_fail_is_refused_by_the_plan(host_with_570: None, lab: Lab, case: str) -> None:
    settings, spoil, mend, says = REFUSED[case]
    lab.set(**SETTINGS | settings)
    on_gpu01(f"{FIRMWARE}\n{spoil}")
    try:
        before = on_gpu01(AS_IT_WAS + TRITON)
        ended = lab.migrate("plan", "--host", "gpu01")
        assert on_gpu01(AS_IT_WAS + TRITON) == before
    finally:
        on_gpu01(f"{FIRMWARE}\n{mend}")
    assert (ended.code, says in ended.err) == (3, True)
    assert generates()


def provision(**settings: Any) -> str:
    """Role provision alone, without the phases around it; returns what Ansible says."""
    playbooks = bundled.root() / "playbooks"
    lab = yaml.safe_load((bundled.root() / "inventory/lab/group_vars/all/main.yml").read_text(encoding="utf-8"))
    given = lab | SETTINGS | {"triton_http_port": 8000} | settings
    play = [{"hosts": "all", "gather_facts": False, "vars": given, "roles": ["provision"]}]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "play.yml").write_text(yaml.safe_dump(play), encoding="utf-8")
        environment = os.environ | {
            "ANSIBLE_CONFIG": str(playbooks.parent / "ansible.cfg"),
            "ANSIBLE_ROLES_PATH": str(playbooks / "roles"),
            "ANSIBLE_LIBRARY": str(playbooks / "library"),
            "ANSIBLE_MODULE_UTILS": str(playbooks / "module_utils"),
        }
        argv = [Path(sys.executable).with_name("ansible-playbook"), "-i", "migrate-lab-gpu01,"]
        argv += ["-c", "community.docker.docker", Path(folder, "play.yml")]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=300, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 2
    return done.stdout + done.stderr


def test_a_module_that_cannot_be_built_leaves_the_one_that_serves(host_with_570: None) -> None:
    """The stand-in builds for no branch then, so that the way back needs the remedy too."""
    before, since = packages(), on_gpu01(TRITON)
    on_gpu01(f"{FIRMWARE}\nask dkms_build failed")
    try:
        why = provision(provision_manage=["driver"])
        assert generates()
        assert loaded().startswith("570.")
    finally:
        on_gpu01("rm /etc/nvidia-stand-in/dkms_build; apt-get install -qq -y --fix-broken")
    assert "nvidia-dkms-580-open" in why
    assert "Repair the cause, then: sudo apt-get install --fix-broken" in why
    assert "dkms status" in why
    assert (packages(), on_gpu01(TRITON)) == (before, since)
    assert on_gpu01("dpkg --audit; ls /etc/apt/preferences.d | grep pinning || true") == ""
    on_gpu01("rm -r /var/lib/migrate/provision")


def test_from_570_and_back(with_570: Lab) -> None:
    lab = with_570
    lab.set(**SETTINGS)
    before, booted = packages(), boots()
    plan = lab.migrate("plan", "--host", "gpu01", "-o", "plan.json")
    assert plan.code == 0
    assert "service gap:        at most 180 s" in plan.out
    assert (packages(), boots()) == (before, booted)

    watching = witness(lab, "--until-stopped")
    try:
        assert lab.migrate("apply", "plan.json", "--through", "provision").code == 0
    finally:
        watching.terminate()
        out, _ = watching.communicate(timeout=120)
    seen = next(line for line in map(json.loads, out.splitlines()) if line["type"] == "witness")
    assert (seen["failed"], watching.returncode) == (0, 0)
    assert seen["failed_in_announced_gap"] > 0
    assert {name: packages().get(name) for name in WANTED} == WANTED
    assert loaded().startswith("580.178.04 open")
    assert boots() == booted + 1
    verdicts = {v["check"]: v["verdict"] for v in provisioned(lab)["verdicts"]}
    assert verdicts["announced_gap"] == "pass"
    assert (verdicts["gpu_driver"], verdicts["nccl_host"]) == ("pass", "pass")
    # The stand-in of the compiler compiles for no card.
    assert verdicts["cuda_toolkit"] == "inconclusive"
    assert not any(f"{name}-570" in packages() for name in ("nvidia-open", "libnvidia-compute"))

    assert lab.migrate("rollback", "--host", "gpu01").code == 0
    assert lab.migrate("apply", "--host", "gpu01", "--yes", "--through", "provision").code == 0
    assert (provisioned(lab)["changed"], boots()) == (0, booted + 1)

    declined = lab.migrate("rollback", "--host", "gpu01", "--to", "before-provision")
    assert "nobody answers" in declined.err
    assert boots() == booted + 1
    assert lab.migrate("rollback", "--host", "gpu01", "--to", "before-provision", "--yes").code == 0
    assert (packages(), boots()) == (before, booted + 2)
    assert loaded().startswith("570.")
    wait_for_triton()
