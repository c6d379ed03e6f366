#!/usr/bin/env python3
"""Do all GPUs add up rightly through NCCL, one process a GPU, in time, and how fast?

With vllm_image_digest it runs itself in that image; by hand, there: `python3 checks/nccl_allreduce.py '{}'`. Where the
first try fails or hangs, a second one without peer-to-peer access tells why. With one GPU it says that nothing was
added up between GPUs. On a live host it sends little, and it steps back where the service beside it slows down.

Settings: vllm_image_digest, vllm_runtime (docker or podman), vllm_gpus, vllm_environment, vllm_shm_size, vllm_ipc,
vllm_args (tensor-parallel-size), triton_http_port, gateway_port, triton_probe_model (the services that are watched),
gpu_live (true, the default where it goes into the image itself: small messages), nccl_timeout_s (default 90, one
try), raw (what was read before, or the file that holds it), show_raw.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from shared import in_image
from shared.verdict import judged, main

LIMITS = in_image.Limits("16g", timeout_s=300)
TRY_TIMEOUT_S = 90
SIZES = (8, 16 << 10, 1 << 20, 64 << 20, 512 << 20)
LIVE_SIZES = (8, 16 << 10, 1 << 20)
WARM, TIMED = 3, 10
PERIOD = 1000
NO_PEERS = {"NCCL_P2P_DISABLE": "1"}
ACCEPT = "set migrate_accept_inconclusive: {stage: REASON}"


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Read here or in the image, or take what was read before, and judge it; or be one of the processes."""
    if settings.get("nccl_rank") is not None:
        return {"verdict": "inconclusive", "rank": _rank(settings)}
    if in_image.is_asked(settings):
        return in_image.verdict("nccl_allreduce", settings, LIMITS)
    return judged(settings, read, judge)


def read(settings: dict[str, Any]) -> dict[str, Any]:
    """Up to two tries: as the environment says, then without peer-to-peer access."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        return {"torch": "", "error": str(error), "gpus": [], "tries": []}
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if gpus else ""
    found = {"torch": torch.__version__, "cuda": torch.version.cuda, "nccl": nccl, "gpus": gpus, "error": ""}
    named = {name for name in os.environ if name.startswith("NCCL_")} - {"NCCL_VERSION"}
    found["environment"] = {name: os.environ[name] for name in sorted(named)}
    tries = [_try(len(gpus), {}, settings)]
    if len(gpus) > 1 and _failed(tries[0]):
        tries.append(_try(len(gpus), NO_PEERS, settings))
    return found | {"tries": tries}


def judge(raw: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The first try decides; the second one only says what to change."""
    count, parallel = len(raw["gpus"]), int((settings.get("vllm_args") or {}).get("tensor-parallel-size") or 1)
    told = {
        "expected": "the exact sum on every GPU, for every size, in time",
        "measured": _measured(raw),
        "detail": " | ".join(why for one in raw["tries"] if (why := _failed(one))) or raw["error"],
        "versions": {key: str(raw[key]) for key in ("torch", "cuda", "nccl") if raw.get(key)},
    }
    if not raw["torch"]:
        return told | {"verdict": "inconclusive", "advice": "set vllm_image_digest, or run this file in the image"}
    if not count:
        return told | {"verdict": "inconclusive", "advice": f"give the container a GPU, or {ACCEPT}"}
    if parallel > count:
        advice = f"lower tensor-parallel-size of vllm_args: it asks for {parallel} GPUs, there are {count}"
        return told | {"verdict": "fail", "advice": advice}
    advice = _advice(raw) if _failed(raw["tries"][0]) else ""
    return told | {"verdict": "fail" if advice else "pass", "advice": advice}


def _advice(raw: dict[str, Any]) -> str:
    why = _failed(raw["tries"][0])
    if "peer access is not supported" in why:
        return 'set NCCL_CUMEM_HOST_ENABLE: "0" in vllm_environment'
    if len(raw["tries"]) > 1 and not _failed(raw["tries"][1]):
        return 'set NCCL_P2P_DISABLE: "1" in vllm_environment: without peer-to-peer access the same sums come out right'
    if "shared memory" in why or "No space left on device" in why:
        return "give the container more shared memory (vllm_shm_size): NCCL found too little in /dev/shm"
    if "no socket interface found" in why:
        return "unset NCCL_SOCKET_IFNAME in vllm_environment: it names no interface of the container"
    if "wrong sum" in why:
        return "nvidia-smi nvlink -e and nvidia-smi -q -d ECC, on the host: sums are wrong with and without peers"
    return "NCCL_DEBUG=INFO python3 nccl_allreduce.py '{}' in the image; nvidia-smi topo -m, and Xid in journalctl -k"


def _failed(one: dict[str, Any]) -> str:
    """Why a try is no good, or nothing. What a process said explains more than that the others waited for it."""
    errors = [rank["error"] for rank in one["ranks"] if rank["error"]]
    if errors or one["timed_out"]:
        return errors[0] if errors else f"no end within {one['timeout_s']:g} s"
    if len(one["ranks"]) < one["world"]:
        return f"{len(one['ranks'])} of {one['world']} processes answered"
    wrong = [(rank["rank"], row["bytes"]) for rank in one["ranks"] for row in rank["sizes"] if row["wrong"]]
    return f"wrong sum on GPU {wrong[0][0]} at {wrong[0][1]} bytes" if wrong else ""


def _measured(raw: dict[str, Any]) -> str:
    if not raw["torch"]:
        return "no torch here"
    names = ", ".join(sorted(set(raw["gpus"]))) or "none"
    return "; ".join([f"{len(raw['gpus'])} GPUs ({names})", *(_one(one, raw) for one in raw["tries"])])


def _one(one: dict[str, Any], raw: dict[str, Any]) -> str:
    """The slowest process's bus bandwidth for the largest message, and the time of the smallest."""
    chosen = sorted((raw["environment"] | one["environment"]).items())
    how = ", ".join(f"{name}={value}" for name, value in chosen) or "NCCL as it chooses"
    how = how if raw["gpus"] else "gloo, on the processor"
    if why := _failed(one):
        return f"{how}: {why}"
    rows = [[rank["sizes"][at] for rank in one["ranks"]] for at in range(len(one["ranks"][0]["sizes"]))]
    largest, latency = rows[-1], max(row["seconds"] for row in rows[0])
    most = largest[0]["bytes"] >> 10
    told = f"{how}: {len(rows)} sizes up to {most} KiB right, {latency * 1e6:.0f} us for the smallest"
    if len(one["ranks"]) == 1:
        return f"{told}; one GPU: nothing between GPUs was checked"
    return f"{told}, bus bandwidth {min(row['bus_gb_s'] for row in largest):.1f} GB/s"


def _try(gpus: int, environment: dict[str, str], settings: dict[str, Any]) -> dict[str, Any]:
    """Start the processes, gather what they print, and end them all when the time is over."""
    world, limit = gpus or 2, float(settings.get("nccl_timeout_s", TRY_TIMEOUT_S))
    with tempfile.TemporaryDirectory() as folder:
        shared = {"nccl_world": world, "nccl_store": f"{folder}/store", "nccl_gpus": gpus}
        shared |= {"gpu_live": settings.get("gpu_live")}
        start = [_start(shared | {"nccl_rank": rank}, environment, folder) for rank in range(world)]
        timed_out = not _wait(start, time.monotonic() + limit)
        ranks = [_answer(Path(folder, f"{rank}.out"), rank, start[rank].returncode) for rank in range(world)]
    told = [rank for rank in ranks if rank]
    return {"environment": environment, "world": world, "timeout_s": limit, "timed_out": timed_out, "ranks": told}


def _start(settings: dict[str, Any], environment: dict[str, str], folder: str) -> subprocess.Popen[bytes]:
    argv = [sys.executable, str(Path(__file__).resolve().parent), "nccl_allreduce", json.dumps(settings)]
    with Path(folder, f"{settings['nccl_rank']}.out").open("wb") as out:
        return subprocess.Popen(argv, stdout=out, stderr=out, env=os.environ | environment, start_new_session=True)


def _wait(processes: list[subprocess.Popen[bytes]], end: float) -> bool:
    """Whether all ended in time. Where one ends with an error, the others would wait for it: they are ended."""
    while time.monotonic() < end and any(process.poll() is None for process in processes):
        if any(process.poll() not in (None, 2) for process in processes):
            break
        time.sleep(0.1)
    in_time = time.monotonic() < end
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return in_time


def _answer(path: Path, rank: int, code: int) -> dict[str, Any]:
    """A process's answer, or its last words; nothing where it was ended before it spoke."""
    lines = path.read_text(errors="replace").strip().splitlines()
    try:
        told = json.loads(lines[-1])
        return dict(told.get("rank") or {"rank": rank, "sizes": [], "error": told["measured"]})
    except (ValueError, IndexError, KeyError):
        said = lines[-1][:300] if lines else f"a process ended with {code}"
        return {} if code == -signal.SIGKILL else {"rank": rank, "sizes": [], "error": said}


def _rank(settings: dict[str, Any]) -> dict[str, Any]:
    """One process: a row for each size. Raises nothing: after an error it ends at once, since NCCL may not let it."""
    torch, distributed = importlib.import_module("torch"), importlib.import_module("torch.distributed")
    rank, world, gpus = settings["nccl_rank"], settings["nccl_world"], settings["nccl_gpus"]
    device = torch.device(f"cuda:{rank}" if gpus else "cpu")
    sizes = LIVE_SIZES if settings.get("gpu_live") or not gpus else SIZES
    try:
        if gpus:
            torch.cuda.set_device(device)
        store = distributed.FileStore(settings["nccl_store"], world)
        distributed.init_process_group("nccl" if gpus else "gloo", store=store, rank=rank, world_size=world)
        rows = [_reduce(torch, distributed, device, rank, world, size) for size in sizes]
    except RuntimeError as error:
        told = {"rank": rank, "sizes": [], "error": " ".join(str(error).split())[:400]}
        print(json.dumps({"rank": told}), flush=True)
        os._exit(1)
    distributed.destroy_process_group()
    return {"rank": rank, "sizes": rows, "error": ""}


def _reduce(torch: Any, distributed: Any, device: Any, rank: int, world: int, size: int) -> dict[str, Any]:
    """The numbers are whole and small, so float32 adds them without any error.

    `wrong` elements, seconds of one all-reduce, and the bus bandwidth in GB/s as nccl-tests defines it.
    """
    pattern = torch.arange(size // 4, device=device).remainder(PERIOD).float()
    added, wait = pattern + rank, torch.cuda.synchronize if device.type == "cuda" else lambda: None
    distributed.all_reduce(added)
    wrong = int(added.ne(pattern * world + world * (world - 1) // 2).sum())
    for turn in range(WARM + TIMED):
        if turn == WARM:
            wait()
            start = time.perf_counter()
        distributed.all_reduce(added)
    wait()
    seconds = (time.perf_counter() - start) / TIMED
    bus = size / seconds * 2 * (world - 1) / world / 1e9
    return {"bytes": size, "wrong": wrong, "seconds": seconds, "bus_gb_s": round(bus, 2)}


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
