"""Do the built extensions hold the kernels of each card that was asked for? Needs no GPU and no `cuobjdump`.

Machine code is read out of the extensions' fat binaries (check `vllm_import`); PTX does not count, since only some
kernels have it. The functions that choose the fast kernels of a generation are compiled in only where the build found
its architecture, so their names tell.
"""

from __future__ import annotations

import importlib.util
import mmap
import re
import sys
from pathlib import Path

import vllm_import  # type: ignore[import-not-found]

# Generation -> kernel -> the function that a build for it compiles (csrc/libtorch_stable of 0.26.0 and 0.31.0).
FUNCTIONS = {
    9: {"scaled-mm": b"cutlass_scaled_mm_sm90", "MoE": b"cutlass_moe_mm_sm90"},
    10: {
        "scaled-mm": b"cutlass_scaled_mm_sm100",
        "NVFP4": b"cutlass_scaled_fp4_mm_sm100a",
        "MoE": b"run_fp4_blockwise_scaled_group_mm_sm100",
    },
    12: {
        "scaled-mm": b"cutlass_scaled_mm_sm120",
        "NVFP4": b"cutlass_scaled_fp4_mm_sm120a",
        "MoE": b"run_fp4_blockwise_scaled_group_mm_sm120",
    },
}


def main(device: str, archs: str) -> int:
    """Print what is missing after `migrate: `; 0 where nothing is."""
    if device != "cuda":
        print(f"migrate: skipped the check of the card's kernels: VLLM_TARGET_DEVICE={device} compiles none")
        return 0
    spec = importlib.util.find_spec("vllm")
    missing = lacking(Path(str(spec and spec.origin)).parent, [arch for arch in re.split("[; ]", archs) if arch])
    for one in missing:
        print(f"migrate: {one}")
    return 1 if missing else 0


def lacking(folder: Path, archs: list[str]) -> list[str]:
    """What the extensions in a folder lack for the compute capabilities (`12.0`), in words; empty for nothing."""
    core = [path for path in sorted(folder.glob("*.so")) if vllm_import.CORE.search(path.name)]
    if not core:
        return [f"no extension that every model needs was built: {folder} has none"]
    found = []
    for arch in (arch.rstrip("a") for arch in archs):
        for path in core:
            code = [one for one in vllm_import.code(path) if one.startswith("sm_")]
            if not any(vllm_import.runs(one, arch) for one in code):
                held = " ".join(code) or "none"
                found.append(f"{path.name} has no code for {arch}, it holds {held}: see image_arch_list")
        wanted = FUNCTIONS.get(int(arch.partition(".")[0]), {})
        found += [
            f"the {kernel} kernels for {arch} were not compiled ({name.decode()}): see the CUDA of image_base"
            for kernel, name in wanted.items()
            if not any(_holds(path, name) for path in core)
        ]
    return found


def _holds(path: Path, name: bytes) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(name) >= 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
