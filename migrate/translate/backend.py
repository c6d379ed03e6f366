"""Which backend a model has, whether it is a language model, and the shape of its requests."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any

import yaml

from migrate.translate.records import Source

TEXT = "TYPE_STRING"
_TRTLLM_ENGINE = "tensorrt_llm_model_name"


@cache
def table() -> Mapping[str, Any]:
    """`backends.yaml`."""
    loaded: Mapping[str, Any] = yaml.load(
        files(__package__).joinpath("backends.yaml").read_text("utf-8"), yaml.CSafeLoader
    )
    return loaded


def backend_of(config: Any, source: Source) -> str:
    """The backend's name, from `backend`, `platform`, the ending of the model's name, or its files; "" for none."""
    known = table()
    if config.backend:
        return str(config.backend)
    if config.platform:
        return str(known["platforms"].get(config.platform, config.platform))
    ending = source.name.rpartition(".")[2] if "." in source.name else ""
    if ending in known["refused"] or ending in known["llm"]:
        return ending
    names = {PurePosixPath(path).name for path in (*source.listing, *source.files)}
    return next((backend for file, backend in known["files"].items() if file in names), "")


def kind_of(backend: str, config: Any) -> str:
    """Which rules of the table hold: "python", "vllm", "tensorrtllm", "preprocessing" or "ensemble"."""
    if backend == "python" and _TRTLLM_ENGINE in config.parameters:
        return "ensemble"
    if backend == "python" and {"tokenizer_dir", "skip_special_tokens"} & set(config.parameters):
        return "python" if _takes_text(config) and _gives_text(config) else "preprocessing"
    return backend


def why_no_language_model(backend: str, config: Any, source: Source) -> str:
    """Why the model cannot move by what its own configuration says; empty where it can."""
    known = table()
    if backend in known["refused"]:
        return f"backend {backend}: {known['refused'][backend]}"
    if backend not in known["llm"]:
        return (
            f"backend {backend!r} is none that is known to serve a language model" if backend else "it has no backend"
        )
    if backend == "tensorrtllm":
        return "it takes token ids: clients ask the ensemble or BLS model in front of it, which moves as a whole"
    if backend in {"python", "ensemble"} and not config.input and not config.output:
        return "its configuration names no tensors (Triton completes it): read it from GET /v2/models/<model>/config"
    if backend in {"python", "ensemble"} and not (_takes_text(config) and _gives_text(config)):
        return "it is no language model: it does not take text (BYTES) and answer with text"
    return ""


def style_of(backend: str, config: Any) -> str:
    """The shape of requests that the gateway maps: "vllm", "python", or "" where it knows none."""
    inputs = {tensor.name: tensor.optional for tensor in config.input}
    if backend == "vllm" or {"text_input", "sampling_parameters"} <= set(inputs):
        return "vllm"
    required = {name for name, optional in inputs.items() if not optional}
    is_known = required <= set(table()["styles"]["python"]["inputs"])
    return "python" if "text_input" in inputs and is_known else ""


def knows_tensor(style: str, side: str, name: str) -> bool:
    """Whether the gateway takes ("inputs") or gives ("outputs") a tensor of this name."""
    return name in table()["styles"].get(style, {}).get(side, ())


def is_generative(architectures: Any) -> bool | None:
    """Whether Hugging Face architectures generate text; None where their names do not say."""
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    if any(name.endswith(tuple(table()["generates"])) for name in names):
        return True
    return False if any(name.endswith(tuple(table()["pools"])) for name in names) else None


def _takes_text(config: Any) -> bool:
    return any(_type(tensor) == TEXT for tensor in config.input)


def _gives_text(config: Any) -> bool:
    return any(_type(tensor) == TEXT for tensor in config.output)


def _type(tensor: Any) -> str:
    values = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    return str(values[tensor.data_type].name) if tensor.data_type in values else ""
