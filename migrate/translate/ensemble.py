"""TensorRT-LLM's ensembles and BLS models: several Triton models that are one language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from migrate.translate import backend
from migrate.translate.fields import Context, add_fields
from migrate.translate.parse import parse
from migrate.translate.records import Draft, Source

# What TensorRT-LLM's BLS model calls unless its parameters say otherwise: docs/model_config.md of its backend.
_BLS_PARTS = {"tensorrt_llm_model_name": "tensorrt_llm"}
_BLS_FIXED = ("preprocessing", "postprocessing")


def part_names(config: Any) -> list[str]:
    """The models that an ensemble or a BLS model calls, each once, in order."""
    if config.ensemble_scheduling.step:
        return list(dict.fromkeys(step.model_name for step in config.ensemble_scheduling.step))
    called = [_parameter(config, key) or default for key, default in _BLS_PARTS.items()]
    return [*called, *_BLS_FIXED]


def why_it_stays(config: Any, source: Source) -> str:
    """Why an ensemble cannot move; empty where it is TensorRT-LLM's chain around an engine."""
    names = part_names(config)
    missing = [name for name in names if name not in source.parts]
    if not names or missing:
        return f"an ensemble whose parts are not all known: {', '.join(missing) or 'it names none'}"
    kinds = {name: _kind(source.parts[name]) for name in names}
    if not any(_is_engine(source.parts[name], kind) for name, kind in kinds.items()):
        return f"an ensemble with steps of its own ({', '.join(names)}): what they do belongs into the application"
    strangers = [name for name, kind in kinds.items() if kind not in {"tensorrtllm", "preprocessing", "python"}]
    return f"an ensemble with a step that is no language model's: {', '.join(strangers)}" if strangers else ""


def add_parts(draft: Draft, config: Any, source: Source) -> None:
    """Adds the fields of every part, under the part's own name."""
    for name in part_names(config):
        part = source.parts[name]
        kind = _kind(part)
        if _is_engine(part, kind):
            kind = "tensorrtllm"
        elif kind == "python":
            kind = "preprocessing"
        add_fields(draft, parse(name, part.config), Context(f"{name}/config.pbtxt", kind, ""))
    draft.note("the weights must be the Hugging Face model that the TensorRT engine was built from")


def users(sources: Sequence[Source]) -> dict[str, list[str]]:
    """For each model the ensembles that call it."""
    found: dict[str, list[str]] = {source.name: [] for source in sources}
    for source in sources:
        config = parse(source.name, source.config)
        if backend.kind_of(backend.backend_of(config, source), config) == "ensemble":
            for part in part_names(config):
                found.setdefault(part, []).append(source.name)
    return found


def _kind(source: Source) -> str:
    config = parse(source.name, source.config)
    return backend.kind_of(backend.backend_of(config, source), config)


def _is_engine(source: Source, kind: str) -> bool:
    return kind == "tensorrtllm" or bool(_parameter(parse(source.name, source.config), "gpt_model_path"))


def _parameter(config: Any, key: str) -> str:
    return str(config.parameters[key].string_value) if key in config.parameters else ""
