#!/usr/bin/env python3
"""Does a container get every GPU of the host? Three numbers, three different failures: bus, driver, container.

Settings: container_gpu_image (default vllm_image_digest), vllm_gpus (as the deployed container asks for them),
vllm_runtime, vllm_container (its name there), triton_container, container_gpu_running (Docker's containers that must
still see their cards; default those of Triton and vLLM), raw (what was read before, or the file that holds it),
show_raw.
"""

from __future__ import annotations

import json
import os
import re
import sys
from functools import partial
from typing import Any

from shared.host import answer, cards
from shared.verdict import judged, main

_answer = partial(answer, timeout_s=120)
CARD = re.compile(r"^GPU \d+: (.*?)(?: \(UUID: .*\))?$", re.MULTILINE)
ACCEPT = "set migrate_accept_inconclusive: {stage: REASON}"
CONFIGURE = "nvidia-ctk runtime configure --runtime=docker, then systemctl reload docker"
# What Docker and the container toolkit say -> what to do. Texts: container toolkit's troubleshooting page, moby#50228.
REASONS = (
    ("is not installed", "install Docker (role docker_engine)"),
    ("could not select device driver", f"apt-get install nvidia-container-toolkit; {CONFIGURE}"),
    ("failed to discover GPU vendor from CDI", f"apt-get install nvidia-container-toolkit; {CONFIGURE}"),
    ("unsatisfied condition: cuda", "upgrade the driver, or choose an image of an older CUDA: the image asks for more"),
    ("version mismatch", "reboot: the installed driver is not the loaded one (check gpu_driver)"),
    (
        "invoking the NVIDIA Container Runtime Hook directly",
        "nvidia-ctk config --in-place --set nvidia-container-runtime.mode=auto",
    ),
    (
        "Failed to initialize NVML: Unknown Error",
        "recreate the container: a daemon-reload took its cards; use CDI to keep them",
    ),
    (
        "no such file",
        "rm /etc/cdi/nvidia.yaml; systemctl restart nvidia-cdi-refresh: the list of device files is stale",
    ),
    ("unresolvable CDI devices", "systemctl restart nvidia-cdi-refresh; nvidia-ctk cdi list shows what there is"),
    ("No such image", "migrate continue --host HOST: the image is not on the host"),
)


def check(settings: dict[str, Any]) -> dict[str, Any]:
    """Read the host, or take what was read before, and judge it."""
    if settings.get("vllm_runtime") == "process":
        return {"verdict": "pass", "expected": "no container", "measured": "vllm_runtime is process: torch_gpu looks"}
    return judged(settings, read, judge)


def read(settings: dict[str, Any]) -> dict[str, Any]:
    """Cards on the bus, cards in nvidia-smi on the host, in a new container, and in those that run."""
    image = settings.get("container_gpu_image") or settings.get("vllm_image_digest") or ""
    host, asked = _named(_answer("nvidia-smi", "-L")), str(settings.get("vllm_gpus", "all")) != "none"
    return {
        "pci": cards(),
        "host": host,
        "image": image,
        "container": _named(_new(image, settings)) if asked and image and host["cards"] else {},
        "running": {
            name: found
            for name, engine in _running(settings).items()
            if name and host["cards"] and (found := _inside(name, engine))
        },
    }


def judge(raw: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Fewer cards at one of the three places than at the one before names who lost them."""
    bus, host, inside = raw["pci"]["cards"], len(raw["host"]["cards"]), raw["container"]
    wanted = _count(settings, host)
    told = {
        "expected": f"{wanted if host else 'all'} GPUs in a container, as many as on the host and on the bus",
        "measured": _measured(raw),
        "detail": _said(inside or raw["host"]),
        "versions": {},
    }
    if not bus and not host:
        return told | {"verdict": "inconclusive", "advice": f"put an NVIDIA GPU into the host, or {ACCEPT}"}
    if host < bus or not host:
        return told | {
            "verdict": "fail",
            "advice": "run check gpu_driver: the driver does not drive every card of the bus",
        }
    if wanted > host:
        return told | {"verdict": "fail", "advice": f"lower vllm_gpus: it asks for {wanted}, the host has {host}"}
    if str(settings.get("vllm_gpus", "all")) == "none":
        return told | {"verdict": "inconclusive", "advice": f"set vllm_gpus: vLLM is to run without a GPU; or {ACCEPT}"}
    if not inside:
        return told | {"verdict": "inconclusive", "advice": "set vllm_image_digest or container_gpu_image"}
    if len(inside["cards"]) != wanted:
        return told | {"verdict": "fail", "advice": _reason(_said(inside))}
    for name, found in raw["running"].items():
        if len(found["cards"]) < 1:
            advice = f"{_reason(_said(found))} (container {name})"
            return told | {"verdict": "fail", "detail": _said(found), "advice": advice}
    return told | {"verdict": "pass", "advice": "", "detail": ""}


def _reason(said: str) -> str:
    known = next((advice for text, advice in REASONS if text in said), "")
    return known or "nvidia-ctk cdi list, and docker info, on the host: the container toolkit gives fewer cards"


def _count(settings: dict[str, Any], host: int) -> int:
    asked = str(settings.get("vllm_gpus", "all"))
    return int(asked) if asked.isdigit() else host


def _measured(raw: dict[str, Any]) -> str:
    inside = f"{len(raw['container']['cards'])} in a new container" if raw["container"] else "no container was tried"
    running = [f"{len(found['cards'])} in {name}" for name, found in raw["running"].items()]
    names = ", ".join(sorted(set(raw["host"]["cards"])))
    host = f"{len(raw['host']['cards'])} in nvidia-smi{f' ({names})' if names else ''}"
    return ", ".join([f"{raw['pci']['cards']} on the bus", host, inside, *running])


def _new(image: str, settings: dict[str, Any]) -> dict[str, Any]:
    """nvidia-smi in a container of the image, given cards as the deployed one is; it is removed when it ends."""
    asked = str(settings.get("vllm_gpus", "all"))
    name = f"migrate-container-gpu-{os.getpid()}"
    engine = settings.get("vllm_runtime", "docker")
    run = [engine, "run", "--rm", "--name", name, "--pull", "never", "--network", "none"]
    run += ["--memory", "1g", "--cpu-shares", "512", "--oom-score-adj", "1000"]
    run += ["--gpus", asked] if engine == "docker" else ["--device", f"nvidia.com/gpu={asked}"]
    run += ["--env", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"]
    found = _answer(*run, "--entrypoint", "nvidia-smi", image, "-L")
    if found["rc"] == 124:
        _answer(engine, "rm", "--force", name)
    return found


def _running(settings: dict[str, Any]) -> dict[str, str]:
    """Container -> its engine."""
    if named := settings.get("container_gpu_running"):
        return dict.fromkeys(named, "docker")
    deployed = {settings.get("vllm_container", "vllm-vllm-1"): settings.get("vllm_runtime", "docker")}
    return {settings.get("triton_container", ""): "docker"} | (deployed if settings.get("vllm_gpus") != "none" else {})


def _inside(name: str, engine: str) -> dict[str, Any]:
    """Cards in a container that runs; nothing where it does not run or asked for none."""
    state = _answer(engine, "container", "inspect", "--format", "{{.State.Running}} {{json .HostConfig}}", name)
    running, _, rest = state["out"].partition(" ")
    if state["rc"] != 0 or running != "true":
        return {}
    config = json.loads(rest)
    # Podman does not tell there which cards were asked for, and only our own container is asked of it.
    asks = engine == "podman" or config.get("DeviceRequests") or config.get("Runtime") == "nvidia"
    return _named(_answer(engine, "exec", name, "nvidia-smi", "-L")) if asks else {}


def _named(found: dict[str, Any]) -> dict[str, Any]:
    """With the cards' names, without their UUIDs."""
    cards = CARD.findall(found["out"]) if found["rc"] == 0 else []
    kept = {key: re.sub(r"(GPU|MIG)-[0-9a-f-]+", r"\1-…", found[key]) for key in ("out", "error")}
    return {"rc": found["rc"], **kept, "cards": cards}


def _said(found: dict[str, Any]) -> str:
    return " ".join((found["out"] + " " + found["error"]).split())[:400]


if __name__ == "__main__":
    sys.exit(main(check, sys.argv))
