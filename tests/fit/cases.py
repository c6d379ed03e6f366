"""Public configurations as cases, and small models with real safetensors headers."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from migrate import fit as fits

CASES = Path(__file__).parents[1] / "cases" / "fit"
NAMES = sorted(path.stem for path in CASES.glob("*.json"))
SMALL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}


def case(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((CASES / f"{name}.json").read_text(encoding="utf-8"))
    return data


def model(name: str, **changed: Any) -> fits.Model:
    return fits.of(case(name)["config"] | changed)


def small_tensors(layers: int = 2) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (256, 64),
        "lm_head.weight": (256, 64),
        "model.norm.weight": (64,),
    }
    layer = {
        "self_attn.q_proj": (64, 64),
        "self_attn.k_proj": (32, 64),
        "self_attn.v_proj": (32, 64),
        "self_attn.o_proj": (64, 64),
        "mlp.gate_proj": (128, 64),
        "mlp.up_proj": (128, 64),
        "mlp.down_proj": (64, 128),
        "input_layernorm": (64,),
        "post_attention_layernorm": (64,),
    }
    return shapes | {f"model.layers.{n}.{k}.weight": shape for n in range(layers) for k, shape in layer.items()}


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "BF16", width: int = 2) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * width
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(end))


def write_config(directory: Path, config: dict[str, Any]) -> Path:
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory
