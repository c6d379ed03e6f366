"""How many parameters a decoder has, counted from its `config.json`; `architectures.yaml` says of what it is made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from migrate.errors import Refused
from migrate.fit.config import Config


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of parameters. `linear` and `experts` are what quantisation shrinks; `head` is 0 where it is tied;
    `active` are the experts' parameters that one token uses; `other` are norms, biases and routers."""

    embedding: int
    head: int
    linear: int
    experts: int
    active: int
    other: int

    @property
    def total(self) -> int:
        return self.embedding + self.head + self.linear + self.experts + self.other


@dataclass(frozen=True, slots=True)
class _Mlp:
    linear: int = 0
    experts: int = 0
    active: int = 0
    other: int = 0


def known(architecture: str) -> bool:
    """Whether `count` can count it."""
    return architecture in _architectures()


def count(config: Config) -> Parameters:
    """The parameters of a decoder. Raises KeyError for an architecture that is not `known`."""
    kind = _architectures()[config.architecture]
    hidden, layers, vocabulary = config.hidden, config.layers, config.vocabulary
    attention, biases = _latent(config) if kind["attention"] == "mla" else _heads(config, kind)
    norm = hidden * (2 if kind["norm_bias"] else 1)
    mlps = [_mlp(config, kind, layer) for layer in range(layers)]
    tied = config.flag("tie_word_embeddings", kind["tied"])
    return Parameters(
        embedding=vocabulary * hidden,
        head=0 if tied else vocabulary * hidden,
        linear=layers * attention + sum(mlp.linear for mlp in mlps),
        experts=sum(mlp.experts for mlp in mlps),
        active=sum(mlp.active for mlp in mlps),
        other=layers * (biases + kind["norms"] * norm)
        + sum(mlp.other for mlp in mlps)
        + norm
        + (vocabulary if _has(config, kind, "head") else 0),
    )


def _heads(config: Config, kind: dict[str, Any]) -> tuple[int, int]:
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    biases = (queries + 2 * keys) * _has(config, kind, "qkv") + config.hidden * _has(config, kind, "out")
    norms = 2 * config.head_dim * kind["qk_norm"]
    return config.hidden * (2 * queries + 2 * keys), biases + norms


def _latent(config: Config) -> tuple[int, int]:
    """Multi-head latent attention, as in transformers' modeling_deepseek_v3.py."""
    rank, rotary = config.integer("kv_lora_rank"), config.integer("qk_rope_head_dim")
    plain, value = config.integer("qk_nope_head_dim"), config.integer("v_head_dim")
    hidden, heads, query_rank = config.hidden, config.heads, config.count("q_lora_rank")
    width = heads * (plain + rotary)
    queries = query_rank * (hidden + width) if query_rank else hidden * width
    keys = hidden * (rank + rotary) + rank * heads * (plain + value)
    return queries + keys + heads * value * hidden, rank + query_rank


def _mlp(config: Config, kind: dict[str, Any], layer: int) -> _Mlp:
    family = kind["experts"]
    if family == "mixtral":
        return _experts(config, config.integer("num_local_experts"), config.integer("intermediate_size"))
    if family == "qwen" and _qwen_layer_has_experts(config, layer):
        shared = config.count("shared_expert_intermediate_size")
        routed = _experts(config, config.integer("num_experts"), config.integer("moe_intermediate_size"))
        return _with_shared(routed, 3 * config.hidden * shared, config.hidden if shared else 0)
    if family == "deepseek" and layer >= config.count("first_k_dense_replace"):
        number, width = config.integer("n_routed_experts"), config.integer("moe_intermediate_size")
        correction = number if config.values.get("topk_method") == "noaux_tc" else 0
        shared = 3 * config.hidden * width * config.count("n_shared_experts")
        return _with_shared(_experts(config, number, width), shared, correction)
    width = config.integer("intermediate_size", "n_inner")
    matrices = 3 if kind["gated"] else 2
    biases = (width * (matrices - 1) + config.hidden) * _has(config, kind, "mlp")
    return _Mlp(linear=matrices * config.hidden * width, other=biases)


def _experts(config: Config, number: int, width: int) -> _Mlp:
    one = 3 * config.hidden * width
    used = min(number, config.integer("num_experts_per_tok"))
    return _Mlp(experts=number * one, active=used * one, other=config.hidden * number)


def _with_shared(routed: _Mlp, shared: int, other: int) -> _Mlp:
    return _Mlp(linear=shared, experts=routed.experts, active=routed.active, other=routed.other + other)


def _qwen_layer_has_experts(config: Config, layer: int) -> bool:
    dense = config.values.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise Refused(f"config.json: mlp_only_layers is {dense!r}, not a list of layers")
    return layer not in dense and (layer + 1) % config.integer("decoder_sparse_step", default=1) == 0


def _has(config: Config, kind: dict[str, Any], part: str) -> bool:
    setting = kind["bias"][part]
    return config.flag(setting) if isinstance(setting, str) else bool(setting)


@cache
def _architectures() -> dict[str, dict[str, Any]]:
    text = (resources.files("migrate.fit") / "architectures.yaml").read_text(encoding="utf-8")
    return {name: kind for name, kind in yaml.load(text, yaml.CSafeLoader).items() if not name.startswith("_")}
