"""Says which torch is here and which NCCL it brings; ends the build at one that several Blackwell cards hang with."""

import re
import sys
from pathlib import Path

OLDEST = (2, 26, 5)


def main() -> int:
    """0 where torch imports and its NCCL, if it has one, is new enough (NVIDIA/nccl#1637, vllm#18814)."""
    try:
        import torch
    except ImportError as error:
        print(f"migrate: torch does not import: {error}; see image_torch and image_base")
        return 1
    found = _nccl(torch)
    told = ".".join(map(str, found)) or "none"
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}, NCCL {told}, {Path(torch.__file__).parent}")
    if found and found < OLDEST:
        print(f"migrate: NCCL {told} of torch is older than 2.26.5: choose a later image_vllm_version or image_torch")
        return 1
    return 0


def _nccl(torch: object) -> tuple[int, ...]:
    """The version of the library that pip installed beside torch, else what torch was linked with; () for none."""
    from importlib import metadata

    for name in ("nvidia-nccl-cu13", "nvidia-nccl-cu12"):
        try:
            return tuple(int(part) for part in re.findall(r"\d+", metadata.version(name))[:3])
        except metadata.PackageNotFoundError:
            continue
    cuda = getattr(torch, "cuda", None)
    return tuple(cuda.nccl.version()) if cuda and getattr(torch, "version").cuda else ()  # noqa: B009


if __name__ == "__main__":
    sys.exit(main())
