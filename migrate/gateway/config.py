"""The gateway's YAML file: where to listen, which vLLM to ask, and which Triton models to answer for."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from migrate.gateway.errors import ConfigError


class StyleName(StrEnum):
    """Which inputs and outputs the Triton model had."""

    PYTHON = "python"
    VLLM = "vllm"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(_Part):
    """The gateway's own address."""

    host: str = "127.0.0.1"
    port: int = Field(default=8100, ge=1, le=65535)


class UpstreamConfig(_Part):
    """vLLM's base URL; `timeout_s` is the longest silence in seconds before an answer is given up."""

    url: str = Field(pattern=r"^https?://[^/]+$")
    timeout_s: float = Field(default=120.0, gt=0)


class ModelConfig(_Part):
    """One Triton model: its request style, vLLM's name for it, its only version and its default length in tokens."""

    style: StyleName
    upstream_model: str = Field(min_length=1)
    version: str = Field(default="1", pattern=r"^[0-9]+$")
    default_max_tokens: int = Field(default=16, ge=1)


class GatewayConfig(_Part):
    """The whole file."""

    listen: Listen = Listen()
    upstream: UpstreamConfig
    models: dict[str, ModelConfig] = Field(min_length=1)


def load(path: Path) -> GatewayConfig:
    """Read the YAML file. Raises ConfigError naming the file and every key that is wrong."""
    try:
        return GatewayConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{path}: {wrong}") from error
