"""A model's `config.json`, read with suspicion: the few facts that decide about memory, each of them checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from migrate.errors import Refused
from migrate.translate.backend import is_generative

_LARGEST = 1 << 32
_MOST_LAYERS = 10_000
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "half": 2, "float": 4}
_UNSCALED = {"default", "su", "longrope", "llama3", "mrope"}


@dataclass(frozen=True, slots=True)
class Config:
    """The decoder's part of a `config.json` (`text_config` where the model also sees)."""

    architecture: str
    values: Mapping[str, Any]
    multimodal: bool

    def integer(self, *names: str, default: int | None = None) -> int:
        """The first of these keys that is set. Raises Refused where none is, or where it is no positive integer."""
        for name in names:
            if (value := self.values.get(name)) is not None:
                return _positive(name, value)
        if default is None:
            raise Refused(f"config.json of {self.architecture} has no {' or '.join(names)}", advice=_MISSING)
        return default

    def count(self, name: str, default: int = 0) -> int:
        """Like `integer`, where 0 is a value too."""
        value = self.values.get(name)
        return default if value is None or value == 0 and value is not False else _positive(name, value)

    def flag(self, name: str, default: bool = False) -> bool:
        """A truth value; anything else is refused."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise Refused(f"config.json: {name} is {value!r}, not true or false", advice=_ADVICE)
        return value

    @property
    def hidden(self) -> int:
        return self.integer("hidden_size", "n_embd", "d_model")

    @property
    def layers(self) -> int:
        number = self.integer("num_hidden_layers", "n_layer", "num_layers")
        if number > _MOST_LAYERS:
            raise Refused(f"config.json: {number:,} layers", advice=_ADVICE)
        return number

    @property
    def heads(self) -> int:
        return self.integer("num_attention_heads", "n_head")

    @property
    def kv_heads(self) -> int:
        is_grouped = self.flag("new_decoder_architecture")
        if self.flag("multi_query") and not is_grouped:  # Falcon-7B, StarCoder: vllm/config/model.py
            return 1
        return self.integer("num_key_value_heads", "num_kv_heads", default=self.heads)

    @property
    def head_dim(self) -> int:
        return self.integer("head_dim", default=max(1, self.hidden // self.heads))

    @property
    def vocabulary(self) -> int:
        return self.integer("vocab_size")

    @property
    def context(self) -> int:
        """Tokens that the model was made for; rotary scaling counts as vLLM counts it (vllm/config/model.py,
        `_get_and_verify_max_len`): yarn multiplies its original context, longrope and llama3 already did."""
        own = self.integer("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
        scaling = self.values.get("rope_scaling") or self.values.get("rope_parameters") or {}
        kind = scaling.get("rope_type") or scaling.get("type") if isinstance(scaling, Mapping) else None
        if kind is not None and not isinstance(kind, str):
            raise Refused(f"config.json: rope_scaling.type is {kind!r}", advice=_ADVICE)
        if not kind or kind in _UNSCALED or self.architecture.startswith("Gemma3"):  # its own context is scaled already
            return own
        factor = scaling.get("factor", 1.0)
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 <= factor <= 1024:
            raise Refused(f"config.json: rope_scaling.factor is {factor!r}", advice=_ADVICE)
        original = scaling.get("original_max_position_embeddings") if kind == "yarn" else None
        return int((_positive("original_max_position_embeddings", original) if original else own) * factor)

    @property
    def quantization(self) -> Mapping[str, Any] | None:
        """How the checkpoint is quantised; None where it is not."""
        found: Mapping[str, Any] | None = next(
            (settings for key in _QUANTIZATION if (settings := self.values.get(key)) is not None), None
        )
        return found or None

    @property
    def dtype(self) -> str:
        """The data type that vLLM computes in with `--dtype auto`: 16 bits also for a float32 checkpoint."""
        name = str(self.values.get("dtype") or self.values.get("torch_dtype") or "bfloat16").removeprefix("torch.")
        if name not in _BYTES:
            raise Refused(f"config.json: {name!r} is no data type that vLLM serves", advice=_ADVICE)
        return "bfloat16" if _BYTES[name] == 4 else name

    @property
    def dtype_bytes(self) -> int:
        return _BYTES[self.dtype]


_ADVICE = "copy config.json of the model's repository again"
_MISSING = "write the key into config.json: the model leaves it to the default of its class in transformers"
_QUANTIZATION = ("quantization_config", "compression_config")


def read(values: object) -> Config:
    """The configuration in a parsed `config.json`. Raises Refused where it is none of a language model."""
    if not isinstance(values, Mapping):
        raise Refused("config.json is no JSON object", advice=_ADVICE)
    names = values.get("architectures")
    if not (isinstance(names, list) and names and isinstance(names[0], str)):
        raise Refused("config.json names no architecture (`architectures`)", advice=_ADVICE)
    if not names[0].isidentifier():
        raise Refused(f"config.json: architectures has {names[0][:80]!r}, which is no class's name", advice=_ADVICE)
    if is_generative(names) is False:
        raise Refused(f"{names[0]} generates no text: it stays on Triton", advice="name a decoder's directory")
    if values.get("is_encoder_decoder"):
        raise Refused(f"{names[0]} is an encoder-decoder; vLLM's memory is computed for decoders only")
    inner = values.get("text_config")
    merged = {**_class_defaults().get(names[0], {}), **values}
    if isinstance(inner, Mapping):
        del merged["text_config"]
        merged |= inner
    for key in _QUANTIZATION:
        if merged.get(key) is not None and not isinstance(merged[key], Mapping):
            raise Refused(f"config.json: {key} is no object", advice=_ADVICE)
    return Config(names[0], merged, isinstance(inner, Mapping))


@cache
def _class_defaults() -> dict[str, dict[str, Any]]:
    text = (resources.files("migrate.fit") / "class_defaults.yaml").read_text(encoding="utf-8")
    loaded: dict[str, dict[str, Any]] = yaml.load(text, yaml.CSafeLoader)
    return loaded


def _positive(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _LARGEST:
        raise Refused(f"config.json: {name} is {value!r}, not a positive integer", advice=_ADVICE)
    return value
