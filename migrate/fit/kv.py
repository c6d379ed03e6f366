"""What the KV cache takes for each token, and what a token of one stream reads from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from migrate.errors import UsageError
from migrate.fit import config as configs
from migrate.fit import layers
from migrate.fit.config import Config

BLOCK = 16
_TYPES = {"auto": None, "float16": 2, "bfloat16": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}


@dataclass(frozen=True, slots=True)
class Kv:
    """Bytes of one token, of the `layers` layers that have a cache; `stateful` others have none. `heads` divide over
    GPUs; a latent cache (DeepSeek) is kept whole on each. `windowed` layers look back `window` tokens at most."""

    per_token: int
    heads: int
    layers: int
    window: int = 0
    windowed: int = 0
    stateful: int = 0

    def on_each(self, gpus: int, stages: int = 1) -> int:
        """Bytes of a token on each GPU of a tensor-parallel group, in the largest of the pipeline's stages: vLLM copies
        heads that it cannot divide (vllm/model_executor/models/llama.py, `LlamaAttention`)."""
        return self.per_token // self.layers * -(-self.layers // stages) * max(1, self.heads // gpus) // self.heads

    def read(self, context: int) -> int:
        """The least that the next token reads when `context` tokens are cached, over all GPUs."""
        whole = (self.layers - self.windowed) * context
        return self.per_token // self.layers * (whole + self.windowed * min(context, self.window))


def kv_bytes_per_token(values: Mapping[str, Any], kv_dtype: str = "auto") -> int:
    """Bytes of KV cache for each token of a `config.json`: 2 x attention layers x KV heads x head size x bytes."""
    return measure(configs.read(values), kv_dtype).per_token


def measure(config: Config, kv_dtype: str = "auto") -> Kv:
    """The KV cache of a model. Raises UsageError for a data type that `--kv-cache-dtype` does not have.

    DeepSeek's latent attention keeps one vector of `kv_lora_rank + qk_rope_head_dim` in each layer instead
    (vllm/v1/kv_cache_interface.py, `MLAAttentionSpec`).
    """
    if kv_dtype not in _TYPES:
        raise UsageError(f"--kv-dtype {kv_dtype!r} does not exist", advice=f"one of {', '.join(_TYPES)}")
    width = _TYPES[kv_dtype] or config.dtype_bytes
    number = layers.attention(config)
    stateful = config.layers - number
    if config.values.get("kv_lora_rank") is not None:
        latent = config.integer("kv_lora_rank") + config.integer("qk_rope_head_dim")
        return Kv(number * latent * width, 1, number, stateful=stateful)
    per_token = 2 * number * config.kv_heads * config.head_dim * width
    window, windowed = _window(config, number)
    return Kv(per_token, config.kv_heads, number, window, windowed, stateful)


def _window(config: Config, number: int) -> tuple[int, int]:
    window = config.count("sliding_window")
    if not window or window >= config.context or not config.flag("use_sliding_window", True):
        return 0, 0
    if kinds := layers.kinds(config):
        return window, sum(kind == "sliding_attention" for kind in kinds)
    pattern = config.count("sliding_window_pattern", 2 if config.architecture.startswith("Gemma2") else 0)
    return window, number - number // pattern if pattern else number
