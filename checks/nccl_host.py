#!/usr/bin/env python3
"""Is the host's NCCL the one asked for, its development files of the same version, and made for a CUDA the driver runs?

The host's NCCL serves programs outside containers only: PyTorch brings its own (check torch_gpu names that one).

Settings: nccl_host_version (exact, such as 2.26.5-1+cuda12.9; without it provision_nccl_version, where
provision_manage names `nccl`; where it names others, none is asked for, and what is there is reported alone),
nccl_host_min_version (default: none), raw (what was read before, or the file that holds it), show_raw.
"""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path
from typing import Any

from shared.host import answer
from shared.verdict import judged, main

PACKAGES = ("libnccl2", "libnccl-dev")
# 2.25 asks for more shared memory than compute capability 12.0 has (nccl#1637); this build does not.
EXAMPLE = "2.26.5-1+cuda12.9"
ACCEPT = "set migrate_accept_inconclusive: {provision: REASON}"
UNASKED = "no NCCL: not asked for, provision_manage does not name nccl (PyTorch brings its own)"


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Read the host, or take what was read before, and judge it."""
    return judged(settings, read, judge)


def read(settings: dict[str, Any]) -> dict[str, Any]:
    """Packages and candidates, the library that the linker finds, and the driver's CUDA."""
    packages = answer("dpkg-query", "-W", "-f", r"${Package} ${Version} ${db:Status-Status}\n", *PACKAGES)["out"]
    rows = [line.split() for line in packages.splitlines()]
    candidates = answer("apt-cache", "madison", "libnccl2")["out"].splitlines()
    smi = answer("nvidia-smi")
    cuda = re.search(r"CUDA Version:\s*(\d+\.\d+)", smi["out"])
    listed = answer("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return {
        "packages": {row[0]: row[1] for row in rows if len(row) == 3 and row[2] == "installed"},
        "candidates": [line.split("|")[1].strip() for line in candidates if line.count("|") == 2][:20],
        "library": _library(),
        "cards": len(listed["out"].splitlines()) if listed["rc"] == 0 else 0,
        "driver_cuda": cuda[1] if cuda else "",
    }


def judge(raw: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Packages first, then what a program would load."""
    exact, least = _wanted(settings), str(settings.get("nccl_host_min_version") or "")
    asked = (
        f"NCCL {exact}" if exact else f"NCCL {least} or newer" if least else "no NCCL asked for: PyTorch brings its own"
    )
    advice = _package(raw, exact, least) or _loaded(raw)
    told = {
        "expected": asked,
        "measured": _measured(raw),
        "detail": f"candidates: {', '.join(raw['candidates'])}" if advice and raw["candidates"] else "",
        "advice": advice,
        "versions": raw["packages"],
    }
    if not exact and not least and "provision_manage" in settings:
        told |= {"expected": UNASKED, "advice": "", "detail": "; ".join(filter(None, (advice, told["detail"])))}
    elif advice:
        return told | {"verdict": "fail"}
    if not raw["cards"]:
        why = f"install the driver (check gpu_driver): whether it runs this NCCL cannot be told; or {ACCEPT}"
        return told | {"verdict": "inconclusive", "advice": why}
    return told | {"verdict": "pass"}


def _package(raw: dict[str, Any], exact: str, least: str) -> str:
    """Advice on the packages; nothing where none is wanted and none is there."""
    version, headers = raw["packages"].get("libnccl2", ""), raw["packages"].get("libnccl-dev", "")
    target = exact or EXAMPLE
    install = f"apt-get install --allow-change-held-packages libnccl2={target} libnccl-dev={target}"
    if exact.endswith("+cuda12.8") and _numbers(exact) > (2, 26, 2):
        return f"no such build was published: ask for {exact.replace('+cuda12.8', '+cuda12.9')}, beside toolkit 12.8"
    if (exact or least) and not version:
        return install
    if exact and version != exact:
        return f"{install}: {version} is installed"
    if least and _numbers(version) < _numbers(least):
        where = "" if "+cuda" in version else " (Ubuntu's own build: NVIDIA's CUDA repository is missing)"
        return f"{install}: {version} is too old{where}"
    if version and headers and version != headers:
        return f"{install}: libnccl-dev is {headers}, libnccl2 {version}"
    made_for = re.search(r"\+cuda(\d+)", version)
    if made_for and raw["driver_cuda"] and int(made_for[1]) > int(raw["driver_cuda"].partition(".")[0]):
        return f"{install}: {version} is for CUDA {made_for[1]}, the driver runs up to {raw['driver_cuda']}"
    return ""


def _loaded(raw: dict[str, Any]) -> str:
    """Advice where a program would load another NCCL than the package's."""
    version, library = raw["packages"].get("libnccl2", ""), raw["library"]
    if version and library["error"]:
        return f"ldconfig; libnccl.so.2 does not load: {library['error']}"
    if version and _numbers(version) != _numbers(library["version"]):
        return (
            f"remove {library['path'] or 'the other libnccl.so.2'} (NCCL {library['version']}) from the linker's path"
        )
    return ""


def _measured(raw: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in raw["packages"].items()) or "no package"
    library = raw["library"]
    loads = f"libnccl.so.2 loads as {library['version']}" if library["version"] else "no libnccl.so.2 to load"
    return f"{packages}; {loads}; driver runs CUDA {raw['driver_cuda'] or 'unknown'}; GPUs: {raw['cards']}"


def _wanted(settings: dict[str, Any]) -> str:
    managed = "nccl" in (settings.get("provision_manage") or [])
    return str(settings.get("nccl_host_version") or (settings.get("provision_nccl_version") if managed else "") or "")


def _library() -> dict[str, str]:
    """What `dlopen` gives a program of the host; ncclGetVersion writes 22605 for 2.26.5."""
    try:
        library = ctypes.CDLL("libnccl.so.2")
        number = ctypes.c_int()
        library.ncclGetVersion(ctypes.byref(number))
    except (OSError, AttributeError) as error:
        return {"version": "", "path": "", "error": str(error)}
    mapped = re.search(r"\S*/libnccl\.so\S*", Path("/proc/self/maps").read_text())
    value = number.value
    return {
        "version": f"{value // 10000}.{value // 100 % 100}.{value % 100}",
        "path": mapped[0] if mapped else "",
        "error": "",
    }


def _numbers(version: str) -> tuple[int, ...]:
    """`2.26.5-1+cuda12.9` -> (2, 26, 5)."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[-+]", version)[0])[:3])


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
