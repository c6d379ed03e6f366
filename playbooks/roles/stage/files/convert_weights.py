"""Writes PyTorch checkpoints as safetensors, without running what their pickles may hold, and proves every tensor.

convert_weights.py SOURCE TARGET FILE…: reads SOURCE/FILE, writes TARGET/model….safetensors and the index. Runs in the
vLLM image; prints one line of JSON. `weights_only` admits tensors alone; before torch 2.6 it could be got around
(CVE-2025-32434), so an older torch is refused.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

_INDEX = "pytorch_model.bin.index.json"
_SAFE = (2, 6)
_BLOCK = 64 << 20


def convert(source: Path, target: Path, names: list[str]) -> dict[str, Any]:
    """Convert every file; number of tensors and bytes. Raises ValueError for what is no plain checkpoint."""
    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if release < _SAFE:
        raise ValueError(f"torch {torch.__version__} of this image is older than 2.6: its weights_only is not safe")
    placed: dict[str, str] = {}
    size = 0
    for name in names:
        tensors = _load(source / name)
        if twice := sorted(placed.keys() & tensors.keys()):
            raise ValueError(f"{name}: {twice[0]} is in {placed[twice[0]]} too")
        written = _renamed(name)
        size += _write(tensors, target / written)
        placed |= dict.fromkeys(tensors, written)
        print(f"{name}: {len(tensors)} tensors", file=sys.stderr, flush=True)
    _expect(source / _INDEX, placed)
    if len(names) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(placed.items()))}
        (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return {"files": len(names), "tensors": len(placed), "bytes": size}


def _load(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, mapped from the file where its form allows it (that of torch 1.6 and later)."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{path.name} holds {type(found).__name__}, expected names and tensors")
    for name, tensor in found.items():
        if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided or tensor.is_quantized:
            raise ValueError(f"{path.name}: {name!r} is no dense tensor")
    return {str(name): tensor.detach() for name, tensor in found.items()}


def _write(tensors: dict[str, torch.Tensor], path: Path) -> int:
    """Write one file and compare it with the checkpoint; bytes of its tensors.

    safetensors takes no two names of one memory: tied tensors, and parts of a larger one, become copies.
    """
    seen: set[int] = set()
    own: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        whole = tensor.is_contiguous() and storage.nbytes() == tensor.nbytes
        own[name] = tensor if whole and storage.data_ptr() not in seen else tensor.contiguous().clone()
        seen.add(storage.data_ptr())
    save_file(own, path, metadata={"format": "pt"})
    with safe_open(path, framework="pt") as written:
        if sorted(written.keys()) != sorted(tensors):
            raise ValueError(f"{path.name}: other names than in the checkpoint")
        for name, tensor in tensors.items():
            if _fingerprint(written.get_tensor(name)) != _fingerprint(tensor):
                raise ValueError(f"{path.name}: {name} differs from the checkpoint")
    return sum(tensor.nbytes for tensor in tensors.values())


def _fingerprint(tensor: torch.Tensor) -> tuple[str, tuple[int, ...], str]:
    """Type, shape and sha256 of the bytes."""
    digest = hashlib.sha256()
    raw = tensor.contiguous().reshape(-1).view(torch.uint8)
    for start in range(0, raw.numel(), _BLOCK):
        digest.update(raw[start : start + _BLOCK].numpy())
    return str(tensor.dtype), tuple(tensor.shape), digest.hexdigest()


def _expect(index: Path, placed: dict[str, str]) -> None:
    """The checkpoint's own index must name these tensors and no others."""
    if index.is_file():
        named = json.loads(index.read_text())["weight_map"]
        if missing := sorted(set(named) ^ set(placed)):
            raise ValueError(f"{index.name} and the checkpoints differ, first in {missing[0]}")


def _renamed(name: str) -> str:
    """pytorch_model-00001-of-00002.bin -> model-00001-of-00002.safetensors."""
    return f"{name.removeprefix('pytorch_').removesuffix('.bin')}.safetensors"


def main(argv: list[str]) -> int:
    """Convert; 1 with one line of the reason where that cannot be."""
    try:
        print(json.dumps(convert(Path(argv[1]), Path(argv[2]), argv[3:])))
    except Exception as error:
        lines = str(error).strip().splitlines()
        print(f"not converted: {lines[0] if lines else type(error).__name__}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
