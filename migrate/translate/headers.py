"""Contradictions between config.json and what the safetensors headers say the weights are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from migrate.errors import Refused
from migrate.translate.records import Draft, Entry, Outcome, Sure

_TYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
_ADVICE = "compare the directory with the model's page, and fetch it again"
_PACKED = {"awq", "gptq"}


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a dense decoder, as its config.json names them."""

    layers: int
    hidden: int
    vocabulary: int

    def parameters(self) -> tuple[int, int]:
        """The fewest and the most parameters that a dense decoder of this shape has.

        A layer holds between 2 and 30 hidden-by-hidden matrices' worth of weights: attention with or without grouped
        keys, plain or gated feed-forward of 1 to 8 times the width. The vocabulary is there once or twice.
        """
        layer, embedding = self.layers * self.hidden**2, self.vocabulary * self.hidden
        return 2 * layer + embedding, 30 * layer + 2 * embedding


def check(draft: Draft, config: Mapping[str, Any], headers: Mapping[str, Any] | None) -> None:
    """Raises Refused where the weights cannot be those of config.json; adds an entry where only their type differs.

    `headers`: {"files", "bytes", "parameters": {"F16": count}, "error"}.
    """
    if not headers:
        return
    if headers.get("error"):
        raise Refused(f"the safetensors headers of the weights cannot be read: {headers['error']}", advice=_ADVICE)
    counts = _counts(headers.get("parameters") or {})
    if not counts or not config:
        return
    _check_quantization(config, counts)
    _check_size(config, counts)
    _compare_types(draft, config, counts)


def _counts(parameters: Mapping[str, Any]) -> dict[str, int]:
    if not all(isinstance(count, int) for count in parameters.values()):
        _refuse(f"the safetensors headers of the weights cannot be read: {dict(parameters)} are no counts")
    return dict(parameters)


def _check_quantization(config: Mapping[str, Any], counts: Mapping[str, int]) -> None:
    quantization = config.get("quantization_config") or {}
    method = str(quantization.get("quant_method", "")).split("_")[0]
    is_packed = _share(counts, ("I32", "U8", "I8")) > 0.2
    has_fp8 = any(name.startswith("F8") for name in counts)
    if not quantization and (is_packed or has_fp8):
        what = "packed integers" if is_packed else "8-bit floats"
        raise Refused(
            f"the weights hold {what} {dict(counts)}, but config.json has no quantization_config", advice=_ADVICE
        )
    if method in _PACKED and not is_packed:
        raise Refused(
            f"config.json says {method}, but the weights hold no packed integers {dict(counts)}", advice=_ADVICE
        )
    if method == "fp8" and not has_fp8:
        _refuse(f"config.json says fp8, but the weights hold no 8-bit floats {dict(counts)}")


def _check_size(config: Mapping[str, Any], counts: Mapping[str, int]) -> None:
    shape, total = _shape(config), sum(counts.values())
    if shape is None or config.get("quantization_config"):
        return
    fewest, most = shape.parameters()
    if not fewest <= total <= most:
        raise Refused(
            f"the weights have {total:,} parameters, but a model of config.json's {shape.layers} layers, width "
            f"{shape.hidden} and vocabulary {shape.vocabulary} has between {fewest:,} and {most:,}",
            advice=_ADVICE,
        )


def _compare_types(draft: Draft, config: Mapping[str, Any], counts: Mapping[str, int]) -> None:
    said = str(config.get("dtype") or config.get("torch_dtype") or "")
    stored = max(counts, key=lambda name: counts[name])
    if config.get("quantization_config") or said not in _TYPES or _TYPES[said] == stored:
        return
    reason = f"config.json says {said}, the weights are stored as {stored}: they are converted while they are loaded"
    draft.entries.append(Entry("weights/*.safetensors:dtype", stored, Outcome.LOSSY, "", "", reason, Sure.REVIEW))


def _refuse(what: str) -> NoReturn:
    raise Refused(what, advice=_ADVICE)


def _shape(config: Mapping[str, Any]) -> Shape | None:
    """None where the sizes are not all there, or the layers are not dense (experts)."""
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    hidden = config.get("hidden_size", config.get("n_embd"))
    sizes = (layers, hidden, config.get("vocab_size"))
    is_dense = not any("expert" in key for key in config)
    if not is_dense or not all(isinstance(size, int) and size > 0 for size in sizes):
        return None
    return Shape(*sizes)  # type: ignore[arg-type]


def _share(counts: Mapping[str, int], names: tuple[str, ...]) -> float:
    return sum(counts.get(name, 0) for name in names) / max(1, sum(counts.values()))
