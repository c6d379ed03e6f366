"""The build of vLLM's image on the host: what goes into it, the tag that follows from that, how much runs at once.

Reads the files that the build is made of: the role's, the two checks', and the operator's patches.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.version import Version

from migrate import bundled, knowledge
from migrate.errors import Refused, SettingsError
from migrate.settings import Settings

Facts = Mapping[str, Any]
REPOSITORY = "migrate-vllm"
# The two checks of the last stages, and what they import.
CHECKS = (
    "image_abi.py",
    "vllm_import.py",
    *(f"shared/{name}.py" for name in ("__init__", "archive", "in_image", "verdict")),
)
_GIB = 1024**3
# One compiler of vLLM's largest files takes 4 to 8 GB (provisioning facts, section 5); the rest is for the host.
_JOB, _KEPT = 6 * _GIB, 4 * _GIB
_MOST_NVCC_THREADS = 4
# Compute capability -> the first CUDA whose nvcc knows it.
_SINCE_CUDA = {"10.0": "12.8", "12.0": "12.8"}
# A guess, to be corrected by whoever builds: compiling every kernel for one card takes one job so many seconds.
_COMPILE_S, _NO_COMPILE_S = 57600, 600


def chosen(settings: Settings, facts: Facts, base: str) -> Settings:
    """The settings with all that the plan decides: `base` (name:tag@sha256), card, jobs, the tag as `vllm_image`.

    Raises SettingsError for settings that contradict each other, Refused where they do not fit the host's cards.
    """
    image = settings.image
    archs = image.arch_list or ";".join(capabilities(facts))
    if image.target_device == "cuda":
        _refuse_unfit(settings, facts, re.split(r"[; ]", archs) if archs else [])
    jobs = image.max_jobs or _jobs(facts)
    found = image.model_copy(update={"base": base, "arch_list": archs, "max_jobs": jobs})
    settings = settings.model_copy(update={"image": found})
    return settings.model_copy(update={"vllm": settings.vllm.model_copy(update={"image": tag(settings)})})


def tag(settings: Settings) -> str:
    """`migrate-vllm:v0.26.0-cu129-<hash>`: the hash is of all that decides what the image holds.

    Raises SettingsError for a patches folder without patches, or a release of which no torch is known.
    """
    inputs = {
        "arguments": arguments(settings),
        "patches": patches(settings),
        "files": bundled.tree_digest("playbooks/roles/vllm_image/files"),
        "checks": [hashlib.sha256((bundled.root() / "checks" / name).read_bytes()).hexdigest() for name in CHECKS],
    }
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return f"{REPOSITORY}:v{settings.image.vllm_version}-{variant(settings)}-{digest[:12]}"


def build(settings: Settings) -> dict[str, Any]:
    """What the role gets. Its `tag` is computed again, so that patches that changed since the plan show; "" where they
    cannot be read any more: the way back does not need them."""
    try:
        names, now = list(patches(settings)), tag(settings)
    except SettingsError:
        names, now = [], ""
    jobs = settings.image.max_jobs
    archs = len(re.split(r"[; ]", settings.image.arch_list))
    threads = min(archs, _MOST_NVCC_THREADS, jobs)
    effort = {"MAX_JOBS": str(jobs), "NVCC_THREADS": str(max(1, threads))}
    return {"tag": now, "arguments": arguments(settings) | effort, "patches": names, "checks": list(CHECKS)}


def arguments(settings: Settings) -> dict[str, str]:
    """The Dockerfile's arguments that decide what the image holds."""
    image = settings.image
    requirement, index = _torch(settings)
    return {
        "BASE_IMAGE": image.base,
        "TORCH": requirement,
        "TORCH_INDEX_URL": index,
        "VLLM_VERSION": image.vllm_version,
        "VLLM_SHA256": image.vllm_sha256,
        "VLLM_TARGET_DEVICE": image.target_device,
        "TORCH_CUDA_ARCH_LIST": image.arch_list if image.target_device == "cuda" else "",
    }


def patches(settings: Settings) -> dict[str, str]:
    """Name -> sha256 of each patch, in the order of application. Raises SettingsError for a folder without one."""
    folder = settings.image.patches_dir
    if not folder:
        return {}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(Path(folder).glob("*.patch"))}
    if not found:
        raise SettingsError(f"image_patches_dir: no *.patch in {folder} on this machine")
    return found


def variant(settings: Settings) -> str:
    """What the tag says of the build: `cu129` as upstream's tags do, else the device that it is for."""
    cuda = cuda_of(settings.image.base)
    if settings.image.target_device != "cuda":
        return settings.image.target_device
    return "cu" + "".join(cuda.split(".")[:2]) if cuda else "cuda"


def cuda_of(reference: str) -> str:
    """The CUDA that the tag of a base image names (`12.9.1`), empty where it names none."""
    found = re.search(r"cuda[:_-]?(\d+\.\d+(?:\.\d+)?)", reference)
    return found[1] if found else ""


def capabilities(facts: Facts) -> list[str]:
    """The compute capabilities of the host's cards, each once, oldest first."""
    found = {str(gpu["compute_capability"]) for gpu in facts.get("gpus") or [] if gpu.get("compute_capability")}
    return sorted(found, key=Version)


def seconds(settings: Settings) -> int:
    """A first guess at how long the build takes."""
    if settings.image.target_device != "cuda":
        return _NO_COMPILE_S
    return _NO_COMPILE_S + _COMPILE_S // max(1, settings.image.max_jobs)


def _jobs(facts: Facts) -> int:
    """Compilers at once that fit beside what the host does already."""
    free = int(facts.get("memory_available_bytes") or 0)
    return max(1, min(int(facts.get("cpus") or 1), (free - _KEPT) // _JOB))


def _torch(settings: Settings) -> tuple[str, str]:
    """pip's requirement and index for the torch to build against; both empty for the one that is in the base."""
    image, found = settings.image, knowledge.image(settings.image.vllm_version)
    if image.torch == "base":
        return "", ""
    flavour = variant(settings) if image.target_device == "cuda" else "cpu"
    if image.torch == "nightly":
        return "--pre torch torchvision torchaudio", f"{image.torch_index}/nightly/{flavour}"
    if found is None:
        raise SettingsError(
            f"image_vllm_version: no torch is known for vLLM {image.vllm_version}",
            advice="image_torch: base, with an image_base that has the torch which this release pins",
        )
    return f"torch=={found.torch}", f"{image.torch_index}/{flavour}"


def _refuse_unfit(settings: Settings, facts: Facts, archs: list[str]) -> None:
    cuda, cards = cuda_of(settings.image.base), capabilities(facts)
    if not archs:
        raise Refused("image_arch_list: nvidia-smi shows no card to compile for", advice="image_arch_list: 12.0")
    for card in cards:
        if not any(_runs(arch, card) for arch in archs):
            told = f"image_arch_list: {' '.join(archs)} has no code for the host's card ({card})"
            raise Refused(told, advice=f"image_arch_list: {';'.join([*archs, card])}")
    if not cuda and settings.image.torch != "base":
        raise SettingsError(
            f"image_base: the tag of {settings.image.base} names no CUDA, which chooses torch's index",
            advice="image_torch: base, or a tag such as nvidia/cuda:12.9.1-devel-ubuntu24.04",
        )
    _refuse_cuda(cuda, archs)


def _refuse_cuda(cuda: str, archs: list[str]) -> None:
    """Raise SettingsError where the base's nvcc does not know a card yet, or does not know it any more."""
    if not cuda:
        return
    oldest = knowledge.load().capabilities.get(int(cuda.partition(".")[0]), "0")
    for arch in (one.rstrip("a") for one in archs):
        since = max((first for card, first in _SINCE_CUDA.items() if Version(card) <= Version(arch)), default="0")
        if Version(cuda) < Version(since):
            raise SettingsError(
                f"image_base: CUDA {cuda} cannot compile for {arch}; {since} is the first that can",
                advice="image_base: nvidia/cuda:12.9.1-devel-ubuntu24.04",
            )
        if Version(arch) < Version(oldest):
            raise SettingsError(
                f"image_base: CUDA {cuda} compiles for {oldest} and later, not for {arch}",
                advice="image_base: nvidia/cuda:12.9.1-devel-ubuntu24.04",
            )


def _runs(arch: str, card: str) -> bool:
    """Whether a card runs machine code of an architecture: of its own generation, and not newer than it."""
    if arch.endswith("a"):
        return arch[:-1] == card
    code, own = Version(arch), Version(card)
    return code.major == own.major and code <= own
