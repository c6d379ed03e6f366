#!/usr/bin/python
"""Reads which driver is loaded, which is installed and from where, what Secure Boot allows, who uses the cards."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils import migrate_apt as apt
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.migrate_gpu import driver
from ansible.module_utils.migrate_host import Run, runner

DOCUMENTATION = r"""
module: gpu_state
short_description: Compares the loaded NVIDIA module with the installed one
description:
  - The loaded module is what C(/proc/driver/nvidia/version) says, the installed one what C(modinfo nvidia) says for the
    running kernel. A reboot is due where an installed one is not the loaded one.
  - Where a driver is to come from is decided here. An installed one keeps its origin; without one Ubuntu's signed
    modules are taken where Secure Boot would load no others. Nothing is changed.
options:
  root: {type: path, default: /, description: "Where proc, sys and dev are read; / but for tests and stand-ins."}
  tools: {type: path, description: Folder that is looked into first for modinfo and mokutil.}
  serving_container: {type: str, default: "", description: Container whose use of the cards is expected.}
  source: {type: str, default: auto, choices: [auto, cuda_repo, ubuntu], description: Asked origin of the driver.}
author: [migrate]
"""
EXAMPLES = r"""
- name: Look at the driver
  gpu_state:
    serving_container: triton
"""
RETURN = r"""
loaded: {type: dict, returned: always, description: Version and flavour of the loaded module, or null.}
installed: {type: dict, returned: always, description: Version and flavour of the installed module, or null.}
library: {type: str, returned: always, description: Version of the installed library, or null.}
origin: {type: str, returned: always, description: Label of the installed driver's source; empty if untold, or null.}
source: {type: str, returned: always, description: "Where a driver is to come from: cuda_repo or ubuntu."}
source_reason: {type: str, returned: always, description: Why from there.}
fabric: {type: dict, returned: always, description: "Installed packages of the NVSwitch fabric -> upstream version."}
reboot_due: {type: bool, returned: always, description: Whether the installed module is not the loaded one.}
kernel: {type: str, returned: always, description: Release of the running kernel.}
kernel_metas: {type: list, elements: str, returned: always, description: What the kernel's updates follow, as generic.}
headers: {type: bool, returned: always, description: Whether its headers are there.}
secure_boot: {type: bool, returned: always, description: Whether Secure Boot is on, null where it cannot be told.}
key_enrolled: {type: bool, returned: always, description: Whether the firmware knows the key that DKMS signs with.}
nouveau: {type: bool, returned: always, description: Whether nouveau is loaded.}
users: {type: list, elements: str, returned: always, description: Processes on the cards that nobody expects there.}
"""

# What `modinfo -F license nvidia` prints for the open modules; the proprietary ones print NVIDIA.
OPEN_LICENSE = "Dual MIT/GPL"
# Where Ubuntu's DKMS keeps the key that it signs with.
KEY = "/var/lib/shim-signed/mok/MOK.der"
_LIBRARY = r"libnvidia-compute(-\d+)?(-server)?"
# Label of a Release file -> what provision_driver_source calls it.
_SOURCES = {"NVIDIA CUDA": "cuda_repo", "Ubuntu": "ubuntu"}
# Updates of an Ubuntu release carry its number, and the archive keeps only the newest of them.
_UBUNTU_UPDATE = re.compile(r"ubuntu0\.\d\d\.\d\d\.")
# Keeps the cards initialised and ends with the driver; no user of them.
_EXPECTED = {"nvidia-persiste"}


def state(params: dict[str, Any], run: Run) -> dict[str, Any]:
    """Everything that RETURN describes."""
    root, kernel = Path(params["root"]), os.uname().release
    told = driver({"version": None, "reason": None}, root)
    loaded = {"version": told["module_version"], "flavour": told["flavour"]} if told["module_version"] else None
    installed, there = _installed(run), apt.installed(run)
    # mokutil(1): --test-key ends with 1 for a key that is enrolled already.
    key_enrolled, origin = run(["mokutil", "--test-key", KEY])[0] == 1, _origin(run, there)
    source, reason = _source(params["source"], origin, told["secure_boot"], key_enrolled=key_enrolled)
    return {
        "loaded": loaded,
        "installed": installed,
        "library": next(iter(_upstream(there, _LIBRARY).values()), None),
        "origin": origin,
        "source": source,
        "source_reason": reason,
        "fabric": _upstream(there, r"(nvidia-fabricmanager|nvlink5)(-\d+)?"),
        "reboot_due": installed is not None and installed != loaded,
        "kernel": kernel,
        "kernel_metas": sorted(_kernel_metas(there, kernel)),
        "headers": (root / f"lib/modules/{kernel}/build").exists(),
        "secure_boot": told["secure_boot"],
        "key_enrolled": key_enrolled,
        "nouveau": bool(re.search(r"^nouveau ", _text(root / "proc/modules"), re.MULTILINE)),
        "users": sorted(set(_users(root, _container_id(run, params["serving_container"])))),
    }


def _installed(run: Run) -> dict[str, str] | None:
    rc, version, _ = run(["modinfo", "-F", "version", "nvidia"])
    if rc != 0 or not version.strip():
        return None
    license_text = run(["modinfo", "-F", "license", "nvidia"])[1].strip()
    return {"version": version.strip(), "flavour": "open" if license_text == OPEN_LICENSE else "proprietary"}


def _origin(run: Run, there: dict[str, str]) -> str | None:
    """Label of the source that offers the installed driver, "" where that cannot be told, None without a driver."""
    library = {name: version for name, version in there.items() if re.fullmatch(_LIBRARY, name)}
    if not library:
        return None
    offers = [o for name, found in apt.candidates(run, library).items() for o in found if o.version == library[name]]
    labels = {offer.release.get("l") or offer.release.get("o") or "" for offer in offers}
    if not labels and all(map(_UBUNTU_UPDATE.search, library.values())):
        return "Ubuntu"
    return labels.pop() if len(labels) == 1 else ""


def _source(asked: str, origin: str | None, secure_boot: bool | None, *, key_enrolled: bool) -> tuple[str, str]:
    """Where a driver is to come from, and why; one of unknown origin is never taken for Ubuntu's."""
    if asked != "auto":
        return asked, "asked for by provision_driver_source"
    if origin is not None:
        told = f"the installed driver is from {origin}" if origin else "where the installed driver is from is not known"
        return _SOURCES.get(origin, "cuda_repo"), f"{told}, and a driver never crosses from one origin to another"
    if secure_boot and not key_enrolled:
        return "ubuntu", "Secure Boot is on and loads signed modules alone: the key of those built here is not enrolled"
    if secure_boot:
        return "cuda_repo", "Secure Boot is on, and the key of modules that are built here is enrolled"
    return "cuda_repo", "Secure Boot is off" if secure_boot is False else "whether Secure Boot is on cannot be told"


def _kernel_metas(there: dict[str, str], kernel: str) -> set[str]:
    """Of `linux-image-generic-hwe-24.04` the end, for the installed ones of the running kernel's flavour.

    linux-image-virtual is the generic kernel with fewer modules beside it, and has no driver modules of its own name.
    """
    flavour = "-".join(kernel.split("-")[2:])
    names = (re.fullmatch(r"linux-image-([a-z][a-z0-9.-]*)", name) for name in there)
    metas = {re.sub(r"^virtual(?=-|$)", "generic", name[1]) for name in names if name}
    return {meta for meta in metas if flavour and re.fullmatch(rf"{re.escape(flavour)}(-hwe)?(-[\d.]+)?", meta)}


def _upstream(there: dict[str, str], pattern: str) -> dict[str, str]:
    """Upstream versions of the installed packages of these names; libnvidia-compute brings libcuda and NVML."""
    found = {name: version for name, version in there.items() if re.fullmatch(pattern, name)}
    return {name: version.rpartition(":")[2].partition("-")[0] for name, version in found.items()}


def _container_id(run: Run, name: str) -> str:
    rc, out, _ = run(["docker", "container", "inspect", "--format", "{{.Id}}", name]) if name else (1, "", "")
    return out.strip() if rc == 0 else ""


def _users(root: Path, container: str) -> Iterator[str]:
    """`name (pid)` of processes that have a device file of a card open, the serving container's left out."""
    for process in (root / "proc").glob("[0-9]*"):
        if not any(target.startswith("/dev/nvidia") for target in _open_files(process)):
            continue
        name = _text(process / "comm").strip()
        if name not in _EXPECTED and not (container and container in _text(process / "cgroup")):
            yield f"{name} ({process.name})"


def _open_files(process: Path) -> Iterator[str]:
    try:
        descriptors = list((process / "fd").iterdir())
    except OSError:
        return
    for descriptor in descriptors:
        try:
            yield os.readlink(descriptor)
        except OSError:
            continue


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def main() -> None:
    """Answer Ansible."""
    module = AnsibleModule(
        {
            "root": {"type": "path", "default": "/"},
            "tools": {"type": "path"},
            "serving_container": {"type": "str", "default": ""},
            "source": {"type": "str", "default": "auto", "choices": ["auto", "cuda_repo", "ubuntu"]},
        },
        supports_check_mode=True,
    )
    folders = [folder for folder in (module.params["tools"], os.environ.get("PATH"), "/usr/sbin", "/sbin") if folder]
    module.run_command_environ_update = {**apt.ENVIRONMENT, "PATH": ":".join(folders)}
    try:
        module.exit_json(changed=False, **state(module.params, apt.looking(runner(module))))
    except apt.Refused as error:
        module.fail_json(msg=apt.message(error))


if __name__ == "__main__":
    main()
