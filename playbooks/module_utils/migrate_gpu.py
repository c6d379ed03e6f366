"""GPUs of a host, their driver, CUDA toolkits and NCCL, and who uses the cards.

Columns are those of `nvidia-smi --help-query-gpu` and `--help-query-compute-apps`; a column that a card does not have
reads `[N/A]` or `[Not Supported]` there and is None here. Memory is bytes.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils.migrate_host import Run

_GPU = ("index", "uuid", "name", "compute_cap", "memory.total", "memory.free", "mig.mode.current", "driver_version")
_PROCESS = ("gpu_uuid", "pid", "process_name", "used_gpu_memory")
_MIB = 1 << 20
# UEFI specification, EFI_GLOBAL_VARIABLE; efivarfs puts four bytes of attributes before the value.
_SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
_PACKAGES = ("cuda-toolkit-*", "nvidia-cuda-toolkit", "libnccl2")


def gpus(run: Run, container_of: Callable[[int], str | None]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One entry for each card that nvidia-smi lists, and `{"version", "reason"}` of the driver as it says.

    `container_of` gives the name of the container that a process of the host is in.
    """
    rows, reason = _query(run, "gpu", _GPU)
    users = _processes(run, container_of) if rows else []
    versions = {row["driver_version"] for row in rows if row["driver_version"]}
    return [_card(row, users) for row in rows], {"version": min(versions, default=None), "reason": reason}


def driver(told: dict[str, Any], root: Path) -> dict[str, Any]:
    """The driver as nvidia-smi tells (`version`, `reason`) and as the kernel does (`module_version`, `flavour`)."""
    module, flavour = _module(root / "proc/driver/nvidia/version")
    reason = told["reason"]
    if module and told["version"] and module != told["version"]:
        reason = f"the loaded module is {module}, the library {told['version']}: a reboot is due"
    return {
        "version": told["version"],
        "module_version": module,
        "flavour": flavour,
        "secure_boot": secure_boot(root / "sys/firmware/efi"),
        "reason": reason,
    }


def secure_boot(firmware: Path) -> bool | None:
    """Whether UEFI Secure Boot is on; False without UEFI, None where its variable cannot be read."""
    if not firmware.is_dir():
        return False
    try:
        return (firmware / "efivars" / _SECURE_BOOT).read_bytes()[-1:] == b"\1"
    except OSError:
        return None


def toolkits_and_nccl(run: Run, local: Path) -> tuple[list[str], dict[str, str | None]]:
    """`12.8` for each CUDA toolkit in `local` (/usr/local) or among the packages; and NCCL's package version."""
    packages = _packages(run)
    found = {_toolkit(folder) for folder in local.glob("cuda-*") if folder.is_dir()}
    names = (re.fullmatch(r"cuda-toolkit-(\d+)-(\d+)", name) for name in packages)
    found |= {f"{name[1]}.{name[2]}" for name in names if name}
    found.add(_major_minor(packages.get("nvidia-cuda-toolkit", "")))
    versions = sorted((v for v in found if v), key=lambda version: [int(part) for part in version.split(".")])
    return versions, {"package": packages.get("libnccl2")}


def _query(run: Run, what: str, columns: tuple[str, ...]) -> tuple[list[dict[str, str | None]], str | None]:
    """Rows by column name; none, and why, where nvidia-smi fails, which it says on stdout."""
    rc, out, err = run(["nvidia-smi", f"--query-{what}={','.join(columns)}", "--format=csv,noheader,nounits"])
    if rc != 0:
        return [], " ".join((out + " " + err).split())[:300] or f"nvidia-smi ended with {rc}"
    lines = [line for line in csv.reader(out.splitlines(), skipinitialspace=True) if len(line) == len(columns)]
    reason = None if lines or what != "gpu" else " ".join(out.split())[:300] or "nvidia-smi lists no device"
    return [dict(zip(columns, map(_value, line), strict=True)) for line in lines], reason


def _value(text: str) -> str | None:
    text = text.strip()
    return None if not text or text.startswith("[") or text == "N/A" else text


def _card(row: dict[str, str | None], users: Iterable[dict[str, Any]]) -> dict[str, Any]:
    mig = row["mig.mode.current"]
    return {
        "index": _number(row["index"]),
        "uuid": row["uuid"],
        "name": row["name"],
        "compute_capability": row["compute_cap"],
        "memory_total": _number(row["memory.total"], _MIB),
        "memory_free": _number(row["memory.free"], _MIB),
        "mig": mig == "Enabled" if mig else None,
        "processes": [{k: v for k, v in user.items() if k != "gpu"} for user in users if user["gpu"] == row["uuid"]],
    }


def _processes(run: Run, container_of: Callable[[int], str | None]) -> list[dict[str, Any]]:
    found = []
    for row in _query(run, "compute-apps", _PROCESS)[0]:
        pid = _number(row["pid"])
        if pid is not None:
            memory = _number(row["used_gpu_memory"], _MIB)
            user = {"pid": pid, "name": row["process_name"], "memory": memory, "container": container_of(pid)}
            found.append({"gpu": row["gpu_uuid"], **user})
    return found


def _number(text: str | None, unit: int = 1) -> int | None:
    return int(text) * unit if text and text.isdigit() else None


def _module(path: Path) -> tuple[str | None, str | None]:
    """Version and flavour of the loaded module; both None where none is loaded."""
    try:
        line = path.read_text(errors="replace").partition("\n")[0]
    except OSError:
        return None, None
    version = re.search(r"\s(\d{3,}\.\d+(?:\.\d+)?)\s", line + " ")
    return version[1] if version else None, "open" if "Open Kernel Module" in line else "proprietary"


def _toolkit(folder: Path) -> str:
    """`12.8` from version.json, which toolkits carry from 11.1 on, else from the folder's name."""
    try:
        return _major_minor(json.loads((folder / "version.json").read_text())["cuda"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        # `cuda-12` beside `cuda-12.8` is the alternatives' link to it.
        return _major_minor(folder.name.removeprefix("cuda-"))


def _major_minor(text: str) -> str:
    found = re.match(r"(\d+)\.(\d+)", str(text))
    return f"{found[1]}.{found[2]}" if found else ""


def _packages(run: Run) -> dict[str, str]:
    """Installed packages -> version."""
    rc, out, _ = run(["dpkg-query", "-W", "-f", r"${Package} ${Version} ${db:Status-Status}\n", *_PACKAGES])
    rows = (line.split() for line in out.splitlines())
    # dpkg-query ends with 1 where one of the patterns matches nothing, and lists the others.
    return {row[0]: row[1] for row in rows if len(row) == 3 and row[2] == "installed"} if rc in (0, 1) else {}
