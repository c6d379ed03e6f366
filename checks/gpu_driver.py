#!/usr/bin/env python3
"""Do PCI bus, kernel module, nvidia-smi and driver libraries agree on the cards and on one driver, new enough?

Settings: gpu_min_memory_mib (default 24,000: cards sold as 24 GB report a little less than 24,576 MiB),
gpu_driver_min_major (default 580: what images with CUDA 13 need), provision_manage, provision_driver_branch and
provision_driver_flavour (held to where provision_manage names `driver`), nvidia_root (default /, below which proc and
sys are read), nvidia_tools (a folder that is looked into first for lspci, modinfo, mokutil and dmesg), raw (what was
read before, or the file that holds it), show_raw.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from shared.host import answer, cards, text
from shared.verdict import judged, main

MIN_MEMORY_MIB = 24_000
MIN_MAJOR = 580
COLUMNS = ("index", "name", "compute_cap", "memory.total", "memory.used", "driver_version", "persistence_mode")
PACKAGES = "libnvidia-compute*"
LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1")
MISMATCH = "Driver/library version mismatch"
AGAIN = "migrate continue --host HOST; or migrate rollback --host HOST, change it, migrate plan --host HOST"
ACCEPT = "set migrate_accept_inconclusive: {provision: REASON}"
LOG = "journalctl -k | grep -iE 'nvrm|nvidia|nouveau'"


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Read the host, or take what was read before, and judge it."""
    return judged(settings, read, judge)


def read(settings: dict[str, Any]) -> dict[str, Any]:
    """What bus, kernel, tools and packages say. Serial numbers and UUIDs are not asked for."""
    root = Path(settings.get("nvidia_root", "/"))
    if settings.get("nvidia_tools"):
        os.environ["PATH"] = f"{settings['nvidia_tools']}:{os.environ.get('PATH', os.defpath)}"
    return {
        "pci": cards(),
        "nouveau": (root / "sys/module/nouveau").is_dir(),
        "proc": text(root / "proc/driver/nvidia/version").partition("\n")[0],
        "sys": text(root / "sys/module/nvidia/version"),
        "modinfo": {field: answer("modinfo", "-F", field, "nvidia") for field in ("version", "license")},
        "smi": answer("nvidia-smi", f"--query-gpu={','.join(COLUMNS)}", "--format=csv,noheader,nounits"),
        "libraries": _libraries(),
        "packages": answer("dpkg-query", "-W", "-f", r"${Package} ${Version} ${db:Status-Status}\n", PACKAGES)["out"],
        "secure_boot": answer("mokutil", "--sb-state"),
        "log": _log(),
    }


def judge(raw: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The first disagreement on the way from the bus to the libraries decides."""
    cards, loaded = _cards(raw), _loaded(raw)
    major = int(settings.get("gpu_driver_min_major", MIN_MAJOR))
    memory = int(settings.get("gpu_min_memory_mib", MIN_MEMORY_MIB))
    told = {
        "expected": f"driver {major} or newer, the same in module and libraries; each card of the bus in nvidia-smi"
        + f"; one with at least {memory} MiB" * (memory > 0),
        "measured": _measured(raw, cards, loaded),
        "detail": "\n".join([_said(raw["smi"])] * (raw["smi"]["rc"] != 0) + raw["log"][-5:]),
        "versions": {"nvidia-driver": loaded} if loaded else {},
    }
    if not raw["pci"]["cards"] and not cards and not loaded:
        return told | {"verdict": "inconclusive", "advice": f"put an NVIDIA GPU into the host, or {ACCEPT}"}
    advice = _module(raw, loaded) or _smi(raw, cards, loaded) or _wanted(cards, loaded, major, memory)
    advice = advice or _managed(raw, loaded, settings)
    if not advice and raw["pci"]["rc"] == 127:
        return told | {"verdict": "inconclusive", "advice": "apt-get install pciutils: the cards could not be counted"}
    return told | {"verdict": "fail" if advice else "pass", "advice": advice}


def _module(raw: dict[str, Any], loaded: str) -> str:
    """Advice where cards are there and the module is not."""
    if loaded:
        return ""
    if raw["nouveau"]:
        return "nouveau holds the card: blacklist it in /etc/modprobe.d, update-initramfs -u, then reboot"
    if raw["modinfo"]["version"]["rc"] != 0:
        return "install the driver: apt-get install nvidia-driver-pinning-580 nvidia-open-580, then reboot"
    refused = any("Key was rejected" in line for line in raw["log"])
    if refused or "SecureBoot enabled" in raw["secure_boot"]["out"]:
        return (
            "Secure Boot refuses a module that DKMS signed: install linux-modules-nvidia-580-open-$(uname -r), "
            "or mokutil --import /var/lib/shim-signed/mok/MOK.der and enrol it at the console"
        )
    return f"modprobe nvidia; {LOG}"


def _smi(raw: dict[str, Any], cards: list[dict[str, str]], loaded: str) -> str:
    """Advice where module, libraries and nvidia-smi disagree."""
    installed = {raw["modinfo"]["version"]["out"].strip(), *raw["libraries"].values(), *_packaged(raw)}
    versions = installed | {card["driver_version"] for card in cards} - {"[N/A]"}
    versions -= {"", loaded}
    if versions or MISMATCH in _said(raw["smi"]):
        return f"reboot: {loaded} is loaded, {', '.join(sorted(versions)) or 'another version'} is installed"
    lines = [line for line in raw["log"] if "requires use of the NVIDIA open kernel modules" in line]
    if lines or ("No devices were found" in _said(raw["smi"]) and _flavour(raw) == "proprietary"):
        return "this card needs the open modules: apt-get install nvidia-open-580, then reboot"
    if raw["smi"]["rc"] == 127:
        return "apt-get install nvidia-utils-580 of the loaded version: nvidia-smi is not installed"
    if raw["smi"]["rc"] != 0:
        return f"{LOG}; nvidia-smi says: {_said(raw['smi'])[:120]}"
    if len(cards) < raw["pci"]["cards"]:
        return f"the driver drives {len(cards)} of {raw['pci']['cards']} cards: {LOG} (look for Xid, RmInitAdapter)"
    return ""


def _wanted(cards: list[dict[str, str]], loaded: str, major: int, memory: int) -> str:
    """Advice where the driver is too old or the cards too small; memory that is not shown is not judged."""
    if int(loaded.partition(".")[0]) < major:
        # From branch 590 on, names have no branch in them.
        package = f"nvidia-open-{max(major, MIN_MAJOR)}" if major < 590 else "nvidia-open"
        return f"upgrade driver {loaded} to {major} or newer: apt-get install {package}, then reboot"
    shown = [int(card["memory.total"]) for card in cards if card["memory.total"].isdigit()]
    if shown and max(shown) < memory:
        return f"migrate a host with a GPU of {memory} MiB; by hand, gpu_min_memory_mib of this check asks for less"
    return ""


def _managed(raw: dict[str, Any], loaded: str, settings: dict[str, Any]) -> str:
    """Advice where the driver is not of the branch and flavour that the inventory asks for."""
    if "driver" not in (settings.get("provision_manage") or []):
        return ""
    branch, flavour = str(settings.get("provision_driver_branch", "")), settings.get("provision_driver_flavour", "")
    if branch and loaded.partition(".")[0] != branch:
        return f"provision_driver_branch asks for {branch}: {AGAIN}"
    if flavour and _flavour(raw) != flavour:
        return f"provision_driver_flavour asks for {flavour}: {AGAIN}"
    return ""


def _measured(raw: dict[str, Any], cards: list[dict[str, str]], loaded: str) -> str:
    names = [f"{card['name']} {card['memory.total']} MiB" for card in cards]
    libraries = sorted(set(raw["libraries"].values()))
    return (
        f"{raw['pci']['cards']} on the bus, module {loaded or 'not loaded'}{f' ({_flavour(raw)})' if loaded else ''}, "
        f"libraries {', '.join(libraries) or 'none'}, nvidia-smi lists {len(cards)}: {'; '.join(names) or 'none'}"
    )


def _packaged(raw: dict[str, Any]) -> set[str]:
    """Versions of the installed library packages, without what Debian adds."""
    rows = [line.split() for line in raw["packages"].splitlines()]
    return {re.sub(r"^\d+:|-[^-]*$", "", row[1]) for row in rows if len(row) == 3 and row[2] == "installed"}


def _cards(raw: dict[str, Any]) -> list[dict[str, str]]:
    rows = [[field.strip() for field in line.split(",")] for line in raw["smi"]["out"].splitlines()]
    good = raw["smi"]["rc"] == 0
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows if good and len(row) == len(COLUMNS)]


def _loaded(raw: dict[str, Any]) -> str:
    found = re.search(r"\s(\d{3,}\.\d+(?:\.\d+)?)\s", raw["proc"] + " ")
    return raw["sys"] or (found[1] if found else "")


def _flavour(raw: dict[str, Any]) -> str:
    """Of the loaded module; what is installed may differ until a reboot."""
    if raw["proc"]:
        return "open" if "Open Kernel Module" in raw["proc"] else "proprietary"
    return "open" if "GPL" in raw["modinfo"]["license"]["out"] else "proprietary"


def _libraries() -> dict[str, str]:
    """Library -> version of the file that the linker's cache leads to."""
    found: dict[str, str] = {}
    for line in answer("ldconfig", "-p")["out"].splitlines():
        name, _, path = line.strip().partition(" => ")
        name = name.partition(" ")[0]
        version = re.search(r"\.so\.(\d{3,}[\d.]+)$", str(Path(path).resolve()))
        # A library of 32 bits is listed as `(libc6)`, one of 64 as `(libc6,x86-64)` or `(libc6,AArch64)`.
        if name in LIBRARIES and "(libc6," in line and version:
            found.setdefault(name, version[1])
    return found


def _log() -> list[str]:
    """The kernel's lines on the driver, the last twenty; needs root."""
    lines = answer("dmesg")["out"].splitlines()
    about = [line for line in lines if re.search(r"NVRM|nouveau|Key was rejected|module verification", line)]
    return [re.sub(r"GPU-[0-9a-f-]+", "GPU-…", line) for line in about[-20:]]


def _said(found: dict[str, Any]) -> str:
    return " ".join((found["out"] + " " + found["error"]).split())


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
