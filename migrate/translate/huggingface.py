"""config.json, generation_config.json and quantize_config.json of the weights, as vLLM reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migrate.errors import Refused
from migrate.translate.parse import as_object
from migrate.translate.records import Draft, Entry, Outcome, Sure
from migrate.translate.values import NotReadable, read

CONFIG = "config.json"
GENERATION = "generation_config.json"
CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
_GGUF_PLUGIN_SINCE = "0.24"
_QUANTIZE_FILES = ("quantize_config.json", "quant_config.json")
# vLLM's own defaults, which generation_config.json would replace: vllm/config/model.py, get_diff_sampling_param.
_SAMPLING = {
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "max_new_tokens",
    "max_length",
    "num_beams",
}


def read_files(weights: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The JSON objects of the weights' directory by file. Raises Refused with line and column for text that is
    none, and for a quantization_config that is none."""
    wanted = (CONFIG, GENERATION, *_QUANTIZE_FILES)
    objects = {name: as_object(f"weights/{name}", weights[name]) for name in wanted if name in weights}
    quantization = objects.get(CONFIG, {}).get("quantization_config")
    if quantization is not None and not isinstance(quantization, dict):
        raise Refused(
            f"weights/{CONFIG}: quantization_config holds {type(quantization).__name__}, expected an object",
            advice="copy config.json of the model's repository again",
        )
    return objects


def add_weights(draft: Draft, objects: Mapping[str, Mapping[str, Any]], kind: str) -> None:
    """Adds the entries of the weights' files, and what vLLM would otherwise choose by itself."""
    _add_config(draft, objects.get(CONFIG, {}))
    for name in _QUANTIZE_FILES:
        for key, value in objects.get(name, {}).items():
            reason = "vLLM reads this file itself where config.json names no quantization"
            draft.entries.append(Entry(f"weights/{name}:{key}", value, Outcome.MAPPED, "", "", reason, Sure.EXACT))
    for key, value in objects.get(GENERATION, {}).items():
        draft.entries.append(_generation(key, value, kind))
    _pin_generation(draft, kind)


def add_gguf(draft: Draft, paths: list[str]) -> None:
    """Says what GGUF weights need. vLLM pull request 39612 moved them out of its core in 0.24.0."""
    for path in paths:
        reason = f"vLLM from {_GGUF_PLUGIN_SINCE} on loads GGUF with vllm-gguf-plugin alone (extra extra-quant)"
        draft.entries.append(Entry(path, "GGUF", Outcome.LOSSY, "", "", reason, Sure.REVIEW))
    if paths:
        draft.note("GGUF weights: put vllm-gguf-plugin into the image, or serve the original Hugging Face weights")


def _add_config(draft: Draft, config: Mapping[str, Any]) -> None:
    others = []
    for key, value in config.items():
        entry = _config_entry(draft, key, value, config)
        if entry is None:
            others.append(key)
        else:
            draft.entries.append(entry)
    if others:
        reason = "vLLM reads the rest of config.json itself"
        shown = f"{len(others)} fields"
        draft.entries.append(Entry("weights/config.json:*", shown, Outcome.MAPPED, "", "", reason, Sure.EXACT))


def _config_entry(draft: Draft, key: str, value: Any, config: Mapping[str, Any]) -> Entry | None:
    source = f"weights/config.json:{key}"
    if key in {"dtype", "torch_dtype"}:
        return _dtype(draft, source, value)
    if key in CONTEXT_NAMES:
        return _context(draft, source, value, config)
    if key == "quantization_config":
        return _quantization(draft, source, value)
    if key == "architectures":
        reason = "vLLM picks its model class by it"
        return Entry(source, value, Outcome.MAPPED, "", "", reason, Sure.EXACT)
    if key == "eos_token_id":
        reason = "vLLM stops at it, and at those of generation_config.json"
        return Entry(source, value, Outcome.MAPPED, "", "", reason, Sure.EXACT)
    return None


def _dtype(draft: Draft, source: str, value: Any) -> Entry:
    try:
        dtype = read(value, "dtype")
    except NotReadable as error:
        return Entry(source, value, Outcome.LOSSY, "", "", f"{error}", Sure.REVIEW)
    if draft.flags.setdefault("dtype", dtype) != dtype:
        reason = f"--dtype is {draft.flags['dtype']!r} by Triton's configuration"
        return Entry(source, value, Outcome.DROPPED, "", "", reason)
    is_wide = dtype == "float32"
    reason = (
        "the weights' own type; auto would halve float32, float32 doubles the memory"
        if is_wide
        else "the weights' own type, so that no release's default decides"
    )
    return Entry(source, value, Outcome.MAPPED, "--dtype", dtype, reason, Sure.REVIEW if is_wide else Sure.DERIVED)


def _context(draft: Draft, source: str, value: Any, config: Mapping[str, Any]) -> Entry:
    if config.get("rope_scaling") or not isinstance(value, int):
        reason = "vLLM computes the context from it and rope_scaling"
        return Entry(source, value, Outcome.MAPPED, "", "", reason, Sure.EXACT)
    asked = draft.flags.get("max-model-len")
    if isinstance(asked, int) and asked > value:
        raise Refused(
            f"{source} is {value}, but Triton's configuration asks for a context of {asked}",
            advice=f"set max-model-len to {value} or less: the positions beyond were never trained",
        )
    if asked is not None:
        reason = f"--max-model-len is {asked} by Triton's configuration"
        return Entry(source, value, Outcome.DROPPED, "", "", reason)
    draft.flags["max-model-len"] = value
    reason = "the model's own context, so that the plan can tell whether it fits"
    return Entry(source, value, Outcome.MAPPED, "--max-model-len", value, reason, Sure.DERIVED)


def _quantization(draft: Draft, source: str, value: Any) -> Entry:
    method = str(value.get("quant_method", "")) if isinstance(value, dict) else ""
    asked = str(draft.flags.get("quantization", ""))
    if asked and method and asked.split("_")[0] != method.split("_")[0]:
        raise Refused(
            f"{source}: the weights are quantized by {method!r}, but Triton's configuration asks for {asked!r}",
            advice="take quantization out of model.json: vLLM reads it from config.json",
        )
    reason = (
        f"vLLM reads {method or 'it'} from config.json and takes its fastest kernel; naming it could choose a slower"
    )
    return Entry(source, value, Outcome.MAPPED, "", "", reason, Sure.EXACT)


def _generation(key: str, value: Any, kind: str) -> Entry:
    source = f"weights/{GENERATION}:{key}"
    if key not in _SAMPLING:
        reason = "vLLM reads the special tokens of this file itself"
        return Entry(source, value, Outcome.MAPPED, "", "", reason, Sure.EXACT)
    if kind == "vllm":
        reason = "vllm_backend never applied it: it makes its SamplingParams from the request alone"
        return Entry(source, value, Outcome.DROPPED, "", "", reason)
    if kind == "ensemble":
        reason = "TensorRT-LLM takes sampling from the request alone"
        return Entry(source, value, Outcome.DROPPED, "", "", reason)
    reason = "Hugging Face's generate applies it unless model.py says otherwise: --override-generation-config if it did"
    return Entry(source, value, Outcome.LOSSY, "", "", reason, Sure.REVIEW)


def _pin_generation(draft: Draft, kind: str) -> None:
    if "generation-config" in draft.flags:
        return
    draft.flags["generation-config"] = "vllm"
    reason = "vLLM since 0.8.0 takes sampling defaults from the weights; requests without a value should mean the same"
    sure = Sure.DERIVED if kind == "python" else Sure.EXACT
    draft.entries.append(
        Entry("vLLM's default:generation-config", "auto", Outcome.MAPPED, "--generation-config", "vllm", reason, sure)
    )
