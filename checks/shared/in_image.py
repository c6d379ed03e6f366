"""Runs a check in the vLLM image, beside the services of the host, and steps back where one of them slows down.

Settings: vllm_image_digest, vllm_runtime (docker or podman), vllm_gpus, vllm_environment, vllm_shm_size, vllm_ipc,
triton_http_port, gateway_port and triton_probe_model (the services that are watched), gpu_live.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.archive import archived

PROBE_TIMEOUT_S, SLOWER, SLACK_S = 10, 3.0, 0.25
# Beside a service: little memory, half a container's share of the processors, and the first to go for want of memory.
MODEST = "--cpu-shares 512 --oom-score-adj 1000".split()


@dataclass(frozen=True, slots=True)
class Limits:
    """What the container of a check gets: memory as Docker takes it (`4g`), and seconds."""

    memory: str
    timeout_s: int


def is_asked(settings: dict[str, Any]) -> bool:
    """Whether the check goes into an image: one is named, and nothing was read before."""
    return bool(settings.get("vllm_image_digest") and not settings.get("raw"))


def verdict(check: str, settings: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """The verdict of this very check, run in the image with the cards and the shared memory of the deployed container.

    A service that answered but once is there. Where none did, one may be there all the same, unless gpu_live says no.
    """
    served = {port: longest for port in _ports(settings) if (longest := _longest(port, settings)) > 0}
    inner = {key: value for key, value in settings.items() if key != "vllm_image_digest"}
    inner["gpu_live"] = bool(served) or settings.get("gpu_live", True)
    name, image = f"migrate-{check.replace('_', '-')}-{os.getpid()}", settings["vllm_image_digest"]
    script = f'cat > /tmp/checks.pyz && exec python3 /tmp/checks.pyz {check} "$0"'
    run = [*_container(name, settings, limits), "--entrypoint", "sh", image, "-c", script, json.dumps(inner)]
    out, said, advice = _watched(run, name, served, settings, limits)
    try:
        found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        advice = advice or f"docker run --rm --gpus all {image} (check container_gpu)"
        return {"verdict": "inconclusive", "measured": said, "advice": advice}
    return found


def _container(name: str, settings: dict[str, Any], limits: Limits) -> list[str]:
    engine, gpus = settings.get("vllm_runtime", "docker"), str(settings.get("vllm_gpus", "none"))
    run = [engine, "run", "--rm", "--interactive", "--name", name, "--pull", "never", "--network", "none"]
    run += ["--memory", limits.memory, "--memory-swap", limits.memory, *MODEST]
    is_shared = settings.get("vllm_ipc") == "host"
    run += ["--ipc", "host"] if is_shared else ["--shm-size", str(settings.get("vllm_shm_size") or "1g")]
    variables = (settings.get("vllm_environment") or {}).items()
    run += [f"--env={key}={value}" for key, value in variables if key.startswith(("NCCL_", "CUDA_", "LD_LIBRARY_"))]
    cards = ["--gpus", gpus] if engine == "docker" else ["--device", f"nvidia.com/gpu={gpus}"]
    return [*run, "--cpus", str(max(1, (os.cpu_count() or 1) // 2)), *([] if gpus == "none" else cards)]


def _watched(
    run: list[str], name: str, served: dict[int, float], settings: dict[str, Any], limits: Limits
) -> tuple[str, str, str]:
    """What the container prints, or why there is none and what to do; it is ended where a service slows down."""
    feed, late, slow, end = archived(Path(__file__).parents[1]), 0, "", time.monotonic() + limits.timeout_s
    try:
        process = subprocess.Popen(run, stdin=-1, stdout=-1, stderr=-1)
    except FileNotFoundError:
        return "", f"{run[0]} is not installed", "install Docker (role docker_engine)"
    with process:
        while late < 2 and time.monotonic() < end:
            try:
                out, error = (part.decode(errors="replace") for part in process.communicate(feed, timeout=1))
                said = (error or out).strip()[-300:]
                return out, f"ended with {process.returncode}, had {limits.memory} of memory: {said}", ""
            except subprocess.TimeoutExpired:
                feed = b""
            slow = _slow(served, settings)
            late = late + 1 if slow else 0
        subprocess.run([run[0], "rm", "--force", name], capture_output=True, timeout=limits.timeout_s)
    if late < 2:
        return "", f"no end within {limits.timeout_s} s", f"docker logs {name}, while the check runs"
    return "", f"stepped back: the service beside it {slow}", "run it again when the service has less to do"


def _ports(settings: dict[str, Any]) -> list[int]:
    """Triton's port and the gateway's, which serves after the cutover; both take Triton's requests."""
    return [port for port in (settings.get("triton_http_port"), settings.get("gateway_port")) if port]


def _longest(port: int, settings: dict[str, Any]) -> float:
    return max(_latency_s(port, settings) for _ in range(5))


def _slow(served: dict[int, float], settings: dict[str, Any]) -> str:
    """How a service that answered before does not do so as it did, or nothing."""
    for port, before in served.items():
        now = _latency_s(port, settings)
        if not 0 < now <= before * SLOWER + SLACK_S:
            how = f"took {now:.2f} s, {before:.2f} s at most before" if now else "answers no more"
            return f"{how} (port {port})"
    return ""


def _latency_s(port: int, settings: dict[str, Any]) -> float:
    """Seconds of one generated token; 0 where none comes."""
    body, start = json.dumps({"text_input": "def add(a, b):", "max_tokens": 1}).encode(), time.monotonic()
    url = f"http://127.0.0.1:{port}/v2/models/{settings.get('triton_probe_model')}/generate"
    try:
        with urllib.request.urlopen(url, body, PROBE_TIMEOUT_S):
            return time.monotonic() - start
    except TimeoutError:
        return float(PROBE_TIMEOUT_S)
    except OSError:
        return 0.0
