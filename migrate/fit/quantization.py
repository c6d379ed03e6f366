"""What a quantised weight costs: bytes per parameter that a scheme shrinks, scales and zeros included.

Sources: AutoAWQ and AutoGPTQ pack 4-bit integers with an fp16 scale and a packed zero point for each group of input
channels; bitsandbytes NF4 keeps an absmax for each block of 64 (QLoRA, section 3, double quantisation: 0.127 bits);
FP8 keeps a float32 scale for each 128 x 128 block or tensor, NVFP4 an FP8 scale for each 16, MXFP4 a byte for each 32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from migrate.errors import Refused
from migrate.fit.config import Config


@dataclass(frozen=True, slots=True)
class Scheme:
    """How weights are stored. `linear` and `experts` are bytes per parameter; None: as the rest of the model."""

    name: str = "none"
    linear: float | None = None
    experts: float | None = None
    group_size: int = 0


AWQ = Scheme("AWQ 4-bit", 0.5 + 2.5 / 128, 0.5 + 2.5 / 128, 128)
FP8 = Scheme("FP8", 1.0, 1.0)
NF4 = Scheme("bitsandbytes 4-bit", 0.5 + 4 / 64, 0.5 + 4 / 64, 64)


def scheme(config: Config) -> Scheme:
    """The scheme that `quantization_config` names. Raises Refused, by name, for one that is not known here."""
    settings = config.quantization
    if settings is None:
        return Scheme()
    method = str(settings.get("quant_method") or "").lower()
    method = method if method and method != "modelopt" else str(settings.get("quant_algo") or method).lower()
    reader = _METHODS.get(method)
    if reader is None:
        raise Refused(
            f"config.json: quantization method {method!r} is not known",
            advice=f"known are {', '.join(sorted(_METHODS))}",
        )
    return reader(settings)


def _grouped(settings: Mapping[str, Any]) -> Scheme:
    bits = _bits(settings.get("bits") or settings.get("w_bit") or 4)
    group = settings.get("group_size") or settings.get("q_group_size") or 128
    size = group if isinstance(group, int) and group > 0 else 0
    each = bits / 8 + ((2 + bits / 8) / size if size else 0)
    method = str(settings.get("quant_method") or settings.get("quant_algo")).upper()
    return Scheme(f"{method} {bits}-bit", each, each, size)


def _fp8(_: Mapping[str, Any]) -> Scheme:
    each = 1 + 4 / (128 * 128)
    return Scheme("FP8", each, each)


def _bitsandbytes(settings: Mapping[str, Any]) -> Scheme:
    if settings.get("load_in_8bit") or settings.get("_load_in_8bit"):
        return Scheme("bitsandbytes 8-bit", 1.0, 1.0)
    each = 0.5 + (0.127 / 8 if settings.get("bnb_4bit_use_double_quant") else 4 / 64)
    return Scheme("bitsandbytes 4-bit", each, each, 64)


def _compressed_tensors(settings: Mapping[str, Any]) -> Scheme:
    groups = settings.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(weights, Mapping):
        raise Refused("config.json: compressed-tensors without config_groups.*.weights")
    bits = _bits(weights.get("num_bits", 8))
    group = weights.get("group_size")
    size = group if isinstance(group, int) and group > 0 else 0
    each = bits / 8 + (2 / size if size else 0)
    return Scheme(f"compressed-tensors {bits}-bit", each, each, size)


def _nvfp4(_: Mapping[str, Any]) -> Scheme:
    return Scheme("NVFP4", 0.5 + 1 / 16, 0.5 + 1 / 16, 16)


def _mxfp4(_: Mapping[str, Any]) -> Scheme:
    return Scheme("MXFP4", None, 0.5 + 1 / 32, 32)


def _bits(value: object) -> int:
    if not isinstance(value, int) or value not in (2, 3, 4, 8):
        raise Refused(f"config.json: quantization_config says {value!r} bits")
    return value


_METHODS = {
    "awq": _grouped,
    "gptq": _grouped,
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed_tensors,
    "nvfp4": _nvfp4,
    "mxfp4": _mxfp4,
}
