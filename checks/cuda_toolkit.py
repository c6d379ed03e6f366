#!/usr/bin/env python3
"""Is the CUDA toolkit that was asked for there, does its compiler know the card, and does the driver run what it makes?

Settings: cuda_toolkit_version (such as 12.8; without it provision_cuda_toolkit, where provision_manage names
`cuda_toolkit`; where it names others, none is asked for, since an image brings its own, and what is there is reported
alone; without all of these any toolkit will do that works), cuda_local (default /usr/local), raw (what was read before,
or the file that holds it), show_raw.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from shared.host import answer
from shared.verdict import judged, main

_answer = partial(answer, timeout_s=120)
KERNEL = "__global__ void add(float *x) { x[threadIdx.x] += 1; }\n"
# FlashInfer's just-in-time compiler refuses compute capability 12 below this toolkit (vllm#50705, vllm#54267).
JIT_FLOOR = (12, 9)
ACCEPT = "set migrate_accept_inconclusive: {provision: REASON}"
UNASKED = "no toolkit: not asked for, provision_manage does not name cuda_toolkit (an image brings its own)"


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Read the host, or take what was read before, and judge it."""
    return judged(settings, read, judge)


def read(settings: dict[str, Any]) -> dict[str, Any]:
    """Toolkits below cuda_local with what their compiler says, packages, and what driver and card can do."""
    local = Path(settings.get("cuda_local", "/usr/local"))
    smi = _answer("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    capabilities = sorted(set(smi["out"].split())) if smi["rc"] == 0 else []
    folders = [path for path in sorted(local.glob("cuda-*.*")) if path.is_dir() and not path.is_symlink()]
    if not folders and (local / "cuda").is_dir():
        folders = [(local / "cuda").resolve()]
    return {
        "toolkits": {path.name: _toolkit(path, capabilities) for path in folders},
        "default": (local / "cuda").resolve().name if (local / "cuda").exists() else "",
        "on_path": str(Path(shutil.which("nvcc") or "").resolve()) if shutil.which("nvcc") else "",
        "ubuntus": _answer("dpkg-query", "-W", "-f", "${Version} ${db:Status-Status}", "nvidia-cuda-toolkit")["out"],
        "capabilities": capabilities,
        "smi": {"rc": smi["rc"], "error": (smi["out"] + smi["error"])[:300] if smi["rc"] else ""},
        "driver_cuda": _driver_cuda(),
    }


def judge(raw: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The toolkit asked for is looked at, else every one that is there."""
    wanted = _wanted(settings)
    found = {name: kit["release"] or kit["version"] for name, kit in raw["toolkits"].items()}
    about = {name: kit for name, kit in raw["toolkits"].items() if not wanted or found[name] == wanted}
    advice = _absent(raw, wanted, about) or next(filter(None, (_broken(raw, kit) for kit in about.values())), "")
    told = {
        "expected": f"CUDA toolkit {wanted}" if wanted else "no toolkit asked for: an image brings its own",
        "measured": _measured(raw, found),
        "detail": _detail(raw, about),
        "advice": advice,
        "versions": {f"cuda-toolkit {name}": version for name, version in found.items()},
    }
    if not wanted and "provision_manage" in settings:
        detail = "; ".join(filter(None, (advice, told["detail"])))
        told |= {"expected": UNASKED, "advice": "", "detail": detail}
    elif advice:
        return told | {"verdict": "fail"}
    if not raw["capabilities"]:
        why = f"install the driver (check gpu_driver): what it runs cannot be told; or {ACCEPT}"
        return told | {"verdict": "inconclusive", "advice": why}
    silent = [name for name, kit in about.items() if wanted and not kit["archs"]]
    if silent:
        why = (
            f"/usr/local/{silent[0]}/bin/nvcc --list-gpu-arch: it does not say what cards it compiles for; or {ACCEPT}"
        )
        return told | {"verdict": "inconclusive", "advice": why}
    return told | {"verdict": "pass"}


def _absent(raw: dict[str, Any], wanted: str, about: dict[str, Any]) -> str:
    if not wanted or about:
        return ""
    package = f"cuda-toolkit-{wanted.replace('.', '-')}"
    if raw["ubuntus"].endswith(" installed"):
        return f"apt-get install {package}: what is there is Ubuntu's old nvidia-cuda-toolkit, another build"
    return f"apt-get install {package}; never cuda or cuda-{wanted.replace('.', '-')}, which replace the driver"


def _broken(raw: dict[str, Any], kit: dict[str, Any]) -> str:
    """Advice where a toolkit cannot make, or the driver not run, code for the host's cards."""
    package = f"cuda-toolkit-{kit['version'].replace('.', '-')}"
    if kit["nvcc"]["rc"] != 0:
        return f"apt-get install --reinstall {package} cuda-nvcc-{kit['version'].replace('.', '-')}: nvcc does not run"
    if kit["version"] and kit["release"] != kit["version"]:
        return f"apt-get install --reinstall {package}: its nvcc is of {kit['release'] or 'an unknown version'}"
    if raw["driver_cuda"] and kit["release"] and _pair(raw["driver_cuda"]) < _pair(kit["release"]):
        return f"upgrade the driver: it runs CUDA up to {raw['driver_cuda']}, the toolkit makes {kit['release']}"
    unknown = [cap for cap in raw["capabilities"] if kit["archs"] and cap.replace(".", "") not in kit["archs"]]
    if unknown:
        return f"install a newer toolkit: nvcc {kit['release']} makes no code for compute capability {unknown[0]}"
    failed = {cap: built for cap, built in kit["compiled"].items() if built["rc"] != 0}
    if failed:
        said = " ".join(next(iter(failed.values()))["error"].split())[:160]
        return f"apt-get install build-essential: nvcc compiles nothing, it says: {said}"
    return ""


def _measured(raw: dict[str, Any], found: dict[str, str]) -> str:
    kits = ", ".join(f"{name} ({version or 'no compiler'})" for name, version in found.items()) or "no toolkit"
    compiled = sorted({cap for kit in raw["toolkits"].values() for cap, b in kit["compiled"].items() if b["rc"] == 0})
    cards = ", ".join(raw["capabilities"]) or "none"
    built = f", compiled for {', '.join(compiled)}" if compiled else ""
    return f"{kits}; driver runs CUDA {raw['driver_cuda'] or 'unknown'}; cards of compute capability {cards}{built}"


def _detail(raw: dict[str, Any], about: dict[str, Any]) -> str:
    notes = [raw["smi"]["error"]] if raw["smi"]["error"] else []
    if raw["on_path"] and raw["on_path"].startswith("/usr/bin/"):
        notes.append(f"nvcc on PATH is {raw['on_path']}, Ubuntu's build")
    old = [kit["release"] for kit in about.values() if kit["release"] and _pair(kit["release"]) < JIT_FLOOR]
    if old and any(cap.startswith("12.") for cap in raw["capabilities"]):
        notes.append(
            f"toolkit {old[0]} with a card of compute capability 12: FlashInfer compiles nothing outside an image; "
            "use cuda-toolkit-12-9 there, or set VLLM_USE_FLASHINFER_SAMPLER=0"
        )
    return "; ".join(notes)


def _wanted(settings: dict[str, Any]) -> str:
    managed = "cuda_toolkit" in (settings.get("provision_manage") or [])
    asked = settings.get("cuda_toolkit_version") or (settings.get("provision_cuda_toolkit") if managed else "")
    return str(asked or "").replace("-", ".")


def _toolkit(folder: Path, capabilities: list[str]) -> dict[str, Any]:
    """What folder and compiler say: `version` of the folder, `release` of nvcc, `archs` as `120`, what compiled."""
    nvcc = str(folder / "bin/nvcc")
    said = _answer(nvcc, "--version")
    release = re.search(r"release (\d+\.\d+)", said["out"])
    listed = _answer(nvcc, "--list-gpu-arch") if said["rc"] == 0 else {"out": ""}
    archs = re.findall(r"compute_(\d+)\b", listed["out"])
    version = re.search(r"(\d+\.\d+)", folder.name)
    return {
        "version": version[1] if version else (release[1] if release else ""),
        "release": release[1] if release else "",
        "nvcc": {"rc": said["rc"], "error": said["error"][:300]},
        "archs": archs,
        "compiled": {cap: _compile(nvcc, cap) for cap in capabilities if cap.replace(".", "") in archs},
    }


def _compile(nvcc: str, capability: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "add.cu")
        source.write_text(KERNEL)
        arch = f"-arch=sm_{capability.replace('.', '')}"
        done = _answer(nvcc, arch, "-cubin", "-o", f"{folder}/add.cubin", str(source))
        return {"rc": done["rc"], "error": (done["out"] + done["error"])[:300] if done["rc"] else ""}


def _driver_cuda() -> str:
    """The newest CUDA that the driver runs, from the head of nvidia-smi's table."""
    found = re.search(r"CUDA Version:\s*(\d+\.\d+)", _answer("nvidia-smi")["out"])
    return found[1] if found else ""


def _pair(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor or 0)


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
