"""What vLLM keeps besides weights and KV cache: an estimate, with its formula, its evidence and its uncertainty.

vLLM measures it at start (vllm/v1/worker/gpu_worker.py, `determine_available_memory`): it runs `max_num_batched_tokens`
dummy tokens through the model and samples for `max_num_seqs` requests, adds what the process took outside PyTorch, and
since 0.21 an estimate of the CUDA graphs. The same parts are estimated here, on each GPU, in bytes:

    activations  2 T (3 I/t + 4 H + (Q + 2 K) d/t)        T tokens; one layer: MLP, residuals, attention
    sampling     14 S V                                   logits in 16 and 32 bits, probabilities, random draws
    peak         2 T H + the larger of the two
    outside      0.3 GiB, 0.6 GiB with several GPUs (NCCL, cuBLAS, attention workspaces)
    CUDA graphs  0.5 GiB

Evidence: Qwen3-8B on a 24 GB card had 1.32 GiB besides weights and cache, graphs 0.52 of it (vLLM's log in LMCache
issue 3430); the formula says 1.32. gpt-oss-120b on eight 32 GB cards had 0.83 GiB (vLLM pull request 51590); the
formula says 1.8. Take it as right to half a GiB on one GPU, and as up to 1 GiB too careful on several.
"""

from __future__ import annotations

from dataclasses import dataclass

from migrate.fit.config import Config
from migrate.fit.units import GIB

UNCERTAINTY = GIB // 2
GRAPHS = GIB // 2
_OUTSIDE, _OUTSIDE_GROUP = 3 * GIB // 10, 6 * GIB // 10


@dataclass(frozen=True, slots=True)
class Batch:
    """vLLM's `--max-num-seqs` and `--max-num-batched-tokens`; 0: what the API server takes by itself."""

    sequences: int = 0
    tokens: int = 0


def reserve(config: Config, vram: int, batch: Batch, gpus: int = 1, stages: int = 1) -> int:
    """Bytes on each GPU of `gpus` in each of a pipeline's `stages`, of `vram` bytes, besides weights and KV cache. No
    error is raised."""
    chosen = defaults(vram, batch)
    heads = (config.heads + 2 * config.kv_heads) * config.head_dim
    layer = (3 * _width(config) + heads) // gpus + 4 * config.hidden
    activations = 2 * chosen.tokens * layer
    sampling = 14 * chosen.sequences * config.vocabulary
    peak = 2 * chosen.tokens * config.hidden + max(activations, sampling)
    return peak + (_OUTSIDE_GROUP if gpus * stages > 1 else _OUTSIDE) + GRAPHS


def defaults(vram: int, batch: Batch) -> Batch:
    """The API server's defaults by the card's memory (vllm/engine/arg_utils.py, `get_batch_defaults`, 0.31); an A100 of
    80 GB takes those of smaller cards there, which need less."""
    sequences, tokens = (1024, 16384) if vram >= 160 * GIB else (1024, 8192) if vram >= 70 * GIB else (256, 2048)
    tokens = batch.tokens or tokens
    return Batch(batch.sequences or min(sequences, tokens), tokens)


def _width(config: Config) -> int:
    if used := config.count("num_experts_per_tok"):
        return used * (config.integer("moe_intermediate_size", "intermediate_size") + config.hidden // 3)
    return config.integer("intermediate_size", "n_inner", default=4 * config.hidden)
