"""Which layers of a decoder have a KV cache: hybrids (Qwen3-Next, Jamba, LFM2, …) mix attention with layers that keep
a state of fixed size for each sequence.

The keys are those of the models' configuration classes in transformers (src/transformers/models/*/configuration_*.py):
qwen3_next, lfm2, granitemoehybrid, jamba, bamba, recurrent_gemma; of Nemotron-H's and Kimi-Linear's own repositories.
"""

from __future__ import annotations

from typing import Any

from migrate.errors import Refused
from migrate.fit.config import Config

_STATE = {"linear_attention", "conv", "mamba", "mamba2", "recurrent", "short_conv", "moe", "mlp"}
_INDICES = ("full_attn_idxs", "attn_layer_indices")
_PATTERN = "hybrid_override_pattern"
_ADVICE = "put the published config.json there"


def kinds(config: Config) -> tuple[str, ...]:
    """The kind of each layer, where config.json lists them. Raises Refused for a list of anything but texts."""
    for name in ("layer_types", "layers_block_type", "block_types"):
        listed = config.values.get(name)
        if not listed:
            continue
        if not isinstance(listed, list) or not all(isinstance(kind, str) for kind in listed):
            raise Refused(f"config.json: {name} is no list of names", advice=_ADVICE)
        return tuple(listed[layer % len(listed)] for layer in range(config.layers))
    return ()


def attention(config: Config) -> int:
    """How many layers have a KV cache. Raises Refused where none has: there is no cache whose size could be told."""
    number = _count(config)
    if number < 1:
        raise Refused(
            f"{config.architecture} has no attention layer: it keeps a state for each sequence, which is not computed"
        )
    return number


def _count(config: Config) -> int:
    if listed := kinds(config):
        return sum(kind not in _STATE for kind in listed)
    for name in _INDICES:
        if config.values.get(name) is not None:
            return _places(config, name, config.values[name])
    linear = config.values.get("linear_attn_config")
    if isinstance(linear, dict) and "full_attn_layers" in linear:
        return _places(config, "full_attn_layers", linear["full_attn_layers"])
    if isinstance(pattern := config.values.get(_PATTERN), str):
        return min(config.layers, pattern.count("*"))
    if config.values.get("full_attention_interval") is not None:
        return config.layers // config.integer("full_attention_interval")
    if config.values.get("attn_layer_period") is not None:
        period, offset = config.integer("attn_layer_period"), config.count("attn_layer_offset")
        return sum(layer % period == offset for layer in range(config.layers))
    return config.layers


def _places(config: Config, name: str, places: Any) -> int:
    if not isinstance(places, list) or not all(isinstance(place, int) for place in places):
        raise Refused(f"config.json: {name} is no list of layers", advice=_ADVICE)
    return min(config.layers, len(set(places)))
