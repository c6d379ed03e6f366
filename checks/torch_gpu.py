#!/usr/bin/env python3
"""Does PyTorch in the image compute rightly on every GPU, and does it get and give back their memory?

With vllm_image_digest it runs itself in that image; by hand, there: `python3 checks/torch_gpu.py '{}'`. On a live host
(a service answers, or somebody holds memory of the card) it takes little memory, and it steps back where the service
beside it slows down.

Settings: vllm_image_digest, vllm_runtime (docker or podman), vllm_gpus, vllm_environment, vllm_shm_size, vllm_ipc,
triton_http_port, gateway_port, triton_probe_model (the services that are watched), gpu_live (true, the default where
it goes into the image itself: little memory whatever is seen), torch_gpu_memory (default 0.8 of the free memory), raw
(what was read before, or the file that holds it), show_raw.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from shared import in_image
from shared.verdict import judged, main

LIMITS = in_image.Limits("4g", timeout_s=300)
MEMORY = 0.8
MIN_BYTES, LIVE_BYTES = 1 << 20, 256 << 20
# A card of which more is in use has somebody on it; a bare CUDA context takes about 0.5 GiB.
IDLE_BYTES = 1 << 30
BLOCK_BYTES = 4 << 30
SIZE = 1024
# Unit roundoff of the result: 8 significand bits in bfloat16, 11 in float16 (IEEE 754).
ROUNDOFF = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
# Twice float32's, for tensor cores that truncate where they add.
ACCUMULATION = 2.0**-23
KEPT_BYTES = 64 << 20
GIVE = "give the container a GPU (check container_gpu), or set migrate_accept_inconclusive: {stage: REASON}"
IMAGE = "choose a vllm_image whose torch holds {sm} (the table of images: docs/releases.md)"
# What CUDA says -> what to do.
REASONS = (
    ("Error 803", "vllm_image of 0.17.0 or later: this one's CUDA compatibility library hides the driver's"),
    ("Error 804", "remove the CUDA compatibility library from LD_LIBRARY_PATH: this card has no forward compatibility"),
    ("driver on your system is too old", "upgrade the driver to 580, or choose a vllm_image of an older CUDA"),
    ("unsupported toolchain", "upgrade the driver to 580, or choose a vllm_image of an older CUDA"),
    ("No CUDA GPUs are available", "unset CUDA_VISIBLE_DEVICES, which hides the GPUs from torch"),
    ("no kernel image", IMAGE),
    ("out of memory", "nvidia-smi --query-compute-apps=pid,used_memory --format=csv shows who holds the memory"),
)


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Read here or in the image, or take what was read before, and judge it."""
    if in_image.is_asked(settings):
        return in_image.verdict("torch_gpu", settings, LIMITS)
    return judged(settings, read, judge)


def read(settings: dict[str, Any]) -> dict[str, Any]:
    """Versions, architectures, and what each GPU (without one, the processor) computed. Memory is bytes."""
    devices = len(list(Path("/dev").glob("nvidia[0-9]*")))
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        return {"error": str(error), "device_files": devices, "torch": "", "gpus": []}
    found = {"torch": torch.__version__, "cuda": torch.version.cuda, "device_files": devices, "error": ""}
    found |= {"nccl": "", "archs": [], "gpus": []}
    if torch.version.cuda:
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
        found["archs"] = str(torch._C._cuda_getArchFlags() or "").split()
    try:
        torch.cuda.init()
    except Exception as error:
        found["error"] = str(error)[:400]
        return found | {"processor": _matmuls(torch, "cpu")}
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    return found | {"gpus": [_gpu(torch, index, settings) for index in range(torch.cuda.device_count())]}


def judge(raw: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Without torch or a GPU nothing can be told; otherwise the first GPU that is wrong decides."""
    told = {
        "expected": f"torch with code for every GPU, bfloat16 and float16 products as in float64, "
        f"{settings.get('torch_gpu_memory', MEMORY):.0%} of the free memory taken and given back",
        "measured": _measured(raw),
        "detail": raw["error"],
        "versions": {key: str(raw[key]) for key in ("torch", "cuda", "nccl") if raw.get(key)},
    }
    if not raw["torch"]:
        return told | {"verdict": "inconclusive", "advice": "set vllm_image_digest, or run this file in the image"}
    if not raw["gpus"] and not raw["device_files"]:
        return told | {"verdict": "inconclusive", "advice": GIVE}
    advice = _start(raw) or next(filter(None, (_wrong(raw, gpu) for gpu in raw["gpus"])), "")
    return told | {"verdict": "fail" if advice else "pass", "advice": advice}


def _start(raw: dict[str, Any]) -> str:
    """Advice where torch does not reach the cards that the container has."""
    if not raw["cuda"]:
        return "choose a vllm_image with CUDA: this one's torch is made for the processor alone"
    if raw["error"] or not raw["gpus"]:
        return _reason(raw["error"], "sm") or "nvidia-smi, in the container, says why torch reaches no GPU"
    if len(raw["gpus"]) < raw["device_files"]:
        return f"unset CUDA_VISIBLE_DEVICES: torch sees {len(raw['gpus'])} of {raw['device_files']} GPUs"
    return ""


def _wrong(raw: dict[str, Any], gpu: dict[str, Any]) -> str:
    """Advice where one GPU is not fit: no code for it, wrong products, memory that is not given or kept."""
    sm = "sm_" + gpu["capability"].replace(".", "")
    if not _covered(gpu["capability"], raw["archs"]):
        return IMAGE.format(sm=sm)
    if gpu["error"]:
        return _reason(gpu["error"], sm) or f"GPU {gpu['index']}: journalctl -k | grep -i xid, on the host"
    for kind, product in gpu["products"].items():
        if not product["worst"] <= 1:
            return f"replace GPU {gpu['index']}: its {kind} products are wrong; nvidia-smi -q -d ECC, dcgmi diag -r 3"
    memory = gpu["memory"]
    if memory["wrong"]:
        return f"replace GPU {gpu['index']}: its memory forgets; nvidia-smi -q -d ECC, dcgmi diag -r 3"
    if memory["free_after"] < memory["free_before"] - KEPT_BYTES and not memory["live"]:
        return f"GPU {gpu['index']} keeps memory: {_reason('out of memory', sm)}"
    return ""


def _covered(capability: str, archs: list[str]) -> bool:
    """Machine code runs on its own major version from its minor version on; an `a` on the very same capability."""
    major, _, minor = capability.partition(".")
    codes = [found.groups() for arch in archs if (found := re.fullmatch(r"sm_(\d+)(\d)([af]?)", arch))]
    return any(m == major and (n == minor or (n < minor and mark != "a")) for m, n, mark in codes)


def _reason(said: str, sm: str) -> str:
    return next((advice.format(sm=sm) for text, advice in REASONS if text in said), "")


def _measured(raw: dict[str, Any]) -> str:
    if not raw["torch"]:
        return "no torch here"
    where = f"torch {raw['torch']}, CUDA {raw['cuda'] or 'none'}, code for {' '.join(raw['archs']) or 'no GPU'}"
    if not raw["gpus"]:
        return f"{where}; no GPU reached; on the processor {_errors(raw.get('processor') or {})}"
    return "; ".join([where, *(_one(gpu) for gpu in raw["gpus"])])


def _one(gpu: dict[str, Any]) -> str:
    if gpu["error"]:
        return f"GPU {gpu['index']} {gpu['name']} ({gpu['capability']}): {gpu['error'][:200]}"
    memory, gib = gpu["memory"], 1 << 30
    live, taken = ", live" * memory["live"], f"{memory['got'] / gib:.1f} of {memory['free_before'] / gib:.1f} GiB"
    return (
        f"GPU {gpu['index']} {gpu['name']} ({gpu['capability']}{live}): {_errors(gpu['products'])}, "
        f"{taken} taken, {memory['free_after'] / gib:.1f} free after"
    )


def _errors(products: dict[str, Any]) -> str:
    """Relative error of the whole product, and the worst element in units of what rounding allows."""
    told = [f"{kind} error {p['relative']:.1e} (worst {p['worst']:.2f} of the bound)" for kind, p in products.items()]
    return ", ".join(told) or "nothing computed"


def _gpu(torch: Any, index: int, settings: dict[str, Any]) -> dict[str, Any]:
    major, minor = torch.cuda.get_device_capability(index)
    found = {"index": index, "name": torch.cuda.get_device_name(index), "capability": f"{major}.{minor}", "error": ""}
    try:
        return found | {"products": _matmuls(torch, f"cuda:{index}"), "memory": _memory(torch, index, settings)}
    except RuntimeError as error:
        return found | {"error": str(error)[:400]}


def _matmuls(torch: Any, device: str) -> dict[str, Any]:
    """Products of SIZE x SIZE matrices against the same numbers multiplied in float64 on the processor.

    `worst` is the largest error in units of its bound u |C| + 2 K u32 |A||B| (Higham, Accuracy and Stability of
    Numerical Algorithms, 3.5): above 1 rounding does not explain it. `relative` is in the Frobenius norm.
    """
    generator, found = torch.Generator().manual_seed(20), {}
    for kind, roundoff in ROUNDOFF.items():
        dtype = getattr(torch, kind)
        a, b = (torch.randn(SIZE, SIZE, generator=generator).to(dtype) for _ in range(2))
        product = (a.to(device) @ b.to(device)).cpu().double()
        exact, size = a.double() @ b.double(), a.double().abs() @ b.double().abs()
        error = (product - exact).abs()
        bound = roundoff * exact.abs() + SIZE * ACCUMULATION * size
        found[kind] = {
            "relative": float(error.norm() / exact.norm()),
            "worst": float((error / bound).nan_to_num(1e9).max()),
        }
    return found


def _memory(torch: Any, index: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Take memory, use it, and give it back; with little first, since CUDA loads kernels when they are first used."""
    _fill(torch, index, MIN_BYTES)
    free, total = torch.cuda.mem_get_info(index)
    live = bool(settings.get("gpu_live")) or total - free > IDLE_BYTES + total // 50
    asked = min(LIVE_BYTES, free // 20) if live else int(free * float(settings.get("torch_gpu_memory", MEMORY)))
    got, wrong = _fill(torch, index, asked)
    after = torch.cuda.mem_get_info(index)[0]
    found = {"free_before": free, "total": total, "asked": asked, "got": got, "wrong": wrong}
    return found | {"free_after": after, "live": live}


def _fill(torch: Any, index: int, asked: int) -> tuple[int, int]:
    """Bytes written in plain blocks, each with its number, and how many of those read again were wrong."""
    sizes = [min(BLOCK_BYTES, asked - start) for start in range(0, asked, BLOCK_BYTES)]
    blocks = [torch.full((size,), at & 127, dtype=torch.uint8, device=f"cuda:{index}") for at, size in enumerate(sizes)]
    wrong = sum(int(block[:: 1 << 12].ne(at & 127).sum()) for at, block in enumerate(blocks))
    got = sum(block.numel() for block in blocks)
    del blocks
    torch.cuda.empty_cache()
    return got, wrong


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
