"""A LoRA adapter in PEFT's format: two small factors for each of some linear layers, the model itself untouched.

The effective weight is W + alpha/r * B A (Hu et al. 2021, "LoRA", section 4.1). Names of files, keys and settings are
those of PEFT's `save_pretrained`, which vLLM reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

RANK = 8
ALPHA = 16
TARGETS = ("q_proj", "v_proj")


@dataclass(frozen=True, slots=True)
class Adapter:
    """By module name: A of shape (rank, inputs) and B of shape (outputs, rank)."""

    factors: dict[str, tuple[torch.Tensor, torch.Tensor]]

    def parameters(self) -> list[torch.Tensor]:
        """Both factors of every module, to be trained."""
        return [factor for pair in self.factors.values() for factor in pair]


def new(model: PreTrainedModel, seed: int) -> Adapter:
    """An adapter that changes nothing yet: A is random, B is zero."""
    choose = torch.Generator().manual_seed(seed)
    factors = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in TARGETS:
            a = torch.randn(RANK, module.in_features, generator=choose) / RANK
            factors[name] = (a.requires_grad_(), torch.zeros(module.out_features, RANK, requires_grad=True))
    return Adapter(factors)


@contextmanager
def applied(model: PreTrainedModel, adapter: Adapter) -> Iterator[None]:
    """While it lasts, the model answers with the adapter, and only the adapter learns."""
    model.requires_grad_(False)
    modules = dict(model.named_modules())
    hooks = [modules[name].register_forward_hook(_adding(*pair)) for name, pair in adapter.factors.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def save(adapter: Adapter, base: str, out: Path) -> None:
    """Write adapter_model.safetensors and adapter_config.json; `base` is where the server finds the model."""
    out.mkdir(parents=True)
    tensors = {}
    for name, (a, b) in adapter.factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = a.detach().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = b.detach().contiguous()
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": RANK,
        "target_modules": list(TARGETS),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _adding(a: torch.Tensor, b: torch.Tensor) -> Callable[..., torch.Tensor]:
    return lambda module, inputs, output: output + ALPHA / RANK * (inputs[0] @ a.T @ b.T)
