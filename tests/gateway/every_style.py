"""One model of each style, and one that takes batches as Triton recorded it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migrate.gateway.config import GatewayConfig


def _input(name: str, data_type: str, *, optional: bool = False) -> dict[str, Any]:
    return {"name": name, "data_type": data_type, "dims": ["1"], "optional": optional}


BATCHED: Mapping[str, Any] = {
    "name": "batched",
    "backend": "python",
    "max_batch_size": 4,
    "input": [
        _input("text_input", "TYPE_STRING"),
        _input("max_tokens", "TYPE_INT32", optional=True),
        _input("return_log_probs", "TYPE_BOOL", optional=True),
    ],
    "output": [{"name": name, "data_type": "TYPE_STRING", "dims": ["-1"]} for name in ("text_output", "log_probs")],
}


def config_of_every_style(url: str, **phi2_stream: Any) -> GatewayConfig:
    return GatewayConfig.model_validate(
        {
            "upstream": {"url": url, "timeout_s": 5},
            "limits": {"max_body_bytes": 100_000},
            "models": {
                "phi2": {"style": "python", "upstream_model": "phi-2"},
                "phi2_stream": {"style": "vllm", "upstream_model": "phi-2"} | phi2_stream,
                "ensemble": {"style": "ensemble", "upstream_model": "phi-2", "version": "3"},
                "batched": {"style": "python", "upstream_model": "phi-2", "config": dict(BATCHED)},
                "asleep": {"style": "python", "upstream_model": "phi-2", "is_loaded": False},
            },
        }
    )
