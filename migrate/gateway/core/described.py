"""Triton's own description of a model, from what was recorded of it or from its style."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from migrate.gateway.config import ModelConfig, StyleName


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output; `dims` are without the batch dimension, -1 is any length."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a model of one style looks like where nothing was recorded."""

    backend: str
    is_decoupled: bool
    max_batch_size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def _specs(text: str) -> tuple[TensorSpec, ...]:
    """`NAME TYPE DIMS` separated by commas; a `?` after the name marks an optional one."""
    found = []
    for part in text.split(","):
        name, datatype, *dims = part.split()
        found.append(TensorSpec(name.rstrip("?"), datatype, tuple(map(int, dims)), name.endswith("?")))
    return tuple(found)


_SHAPES: Mapping[StyleName, _Shape] = {
    StyleName.PYTHON: _Shape(
        "python",
        False,
        0,
        _specs("text_input BYTES 1, max_tokens? INT32 1, temperature? FP32 1, return_log_probs? BOOL 1"),
        _specs("text_output BYTES 1, output_ids INT32 -1, log_probs FP32 -1"),
    ),
    # vllm_backend's `src/model.py`, auto_complete_config.
    StyleName.VLLM: _Shape(
        "vllm",
        True,
        0,
        _specs(
            "text_input BYTES 1, image? BYTES -1, stream? BOOL 1, sampling_parameters? BYTES 1,"
            " exclude_input_in_output? BOOL 1, return_finish_reason? BOOL 1, return_cumulative_logprob? BOOL 1,"
            " return_logprobs? BOOL 1, return_num_input_tokens? BOOL 1, return_num_output_tokens? BOOL 1"
        ),
        _specs(
            "text_output BYTES -1, finish_reason BYTES -1, cumulative_logprob FP32 -1, logprobs BYTES -1,"
            " num_input_tokens UINT32 1, num_output_tokens UINT32 -1"
        ),
    ),
    # TensorRT-LLM's `triton_backend/all_models/inflight_batcher_llm/ensemble/config.pbtxt`.
    StyleName.ENSEMBLE: _Shape(
        "ensemble",
        False,
        64,
        _specs(
            "text_input BYTES 1, max_tokens INT32 1, bad_words? BYTES -1, stop_words? BYTES -1, end_id? INT32 1,"
            " pad_id? INT32 1, top_k? INT32 1, top_p? FP32 1, temperature? FP32 1, length_penalty? FP32 1,"
            " repetition_penalty? FP32 1, min_tokens? INT32 1, presence_penalty? FP32 1, frequency_penalty? FP32 1,"
            " seed? UINT64 1, return_log_probs? BOOL 1, return_context_logits? BOOL 1,"
            " return_generation_logits? BOOL 1, beam_width? INT32 1, stream? BOOL 1"
        ),
        _specs("text_output BYTES -1, cum_log_probs FP32 -1, output_log_probs FP32 -1 -1"),
    ),
}
_NO_SPECIAL_SETTINGS: Mapping[str, Any] = {
    "batch_input": [],
    "batch_output": [],
    "optimization": {
        "priority": "PRIORITY_DEFAULT",
        "input_pinned_memory": {"enable": True},
        "output_pinned_memory": {"enable": True},
        "gather_kernel_buffer_threshold": 0,
        "eager_batching": False,
    },
}


def config_of(name: str, settings: ModelConfig) -> Mapping[str, Any]:
    """Triton's ModelConfig JSON, with every field that Triton 2.51 writes."""
    if settings.config is not None:
        return settings.config
    shape = _SHAPES[settings.style]
    is_ensemble = settings.style is StyleName.ENSEMBLE
    instance = {"name": f"{name}_0", "kind": "KIND_CPU", "count": 1, "gpus": [], "secondary_devices": []}
    config: dict[str, Any] = {
        "name": name,
        "platform": "ensemble" if is_ensemble else "",
        "backend": "" if is_ensemble else shape.backend,
        "runtime": "",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": shape.max_batch_size,
        "input": [_input(spec) for spec in shape.inputs],
        "output": [_output(spec) for spec in shape.outputs],
        **_NO_SPECIAL_SETTINGS,
        "instance_group": [] if is_ensemble else [instance | {"profile": [], "passive": False, "host_policy": ""}],
        "default_model_filename": "" if is_ensemble else "model.py",
        "cc_model_filenames": {},
        "metric_tags": {},
        "parameters": {},
        "model_warmup": [],
    }
    return config | ({"model_transaction_policy": {"decoupled": True}} if shape.is_decoupled else {})


def metadata_of(name: str, settings: ModelConfig, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Triton's ModelMetadata JSON; a batching model's shapes begin with -1."""
    if settings.metadata is not None:
        return settings.metadata
    batch = [-1] if config.get("max_batch_size", 0) else []
    inputs, outputs = (
        [
            {"name": spec.name, "datatype": spec.datatype, "shape": [*batch, *spec.dims]}
            for spec in specs(config.get(kind, ()))
        ]
        for kind in ("input", "output")
    )
    platform = config.get("platform") or config.get("backend", "")
    return {"name": name, "versions": [settings.version], "platform": platform, "inputs": inputs, "outputs": outputs}


def specs(entries: Iterable[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    """The inputs or outputs of a ModelConfig."""
    return tuple(
        TensorSpec(
            entry["name"],
            entry["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES"),
            tuple(map(int, entry["dims"])),
            bool(entry.get("optional", False)),
        )
        for entry in entries
    )


def _input(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": _data_type(spec),
        "format": "FORMAT_NONE",
        "dims": list(spec.dims),
        "is_shape_tensor": False,
        "allow_ragged_batch": False,
        "optional": spec.is_optional,
        "is_non_linear_format_io": False,
    }


def _output(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": _data_type(spec),
        "dims": list(spec.dims),
        "label_filename": "",
        "is_shape_tensor": False,
        "is_non_linear_format_io": False,
    }


def _data_type(spec: TensorSpec) -> str:
    return "TYPE_" + ("STRING" if spec.datatype == "BYTES" else spec.datatype)
