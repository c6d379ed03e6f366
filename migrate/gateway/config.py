"""The gateway's YAML file: where to listen, which vLLM to ask, and which Triton models to answer for."""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from migrate.gateway.errors import ConfigError


class StyleName(StrEnum):
    """Which inputs and outputs the Triton model had."""

    PYTHON = "python"
    VLLM = "vllm"
    ENSEMBLE = "ensemble"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(_Part):
    """The gateway's own address."""

    host: str = "127.0.0.1"
    port: int = Field(default=8100, ge=1, le=65535)


class GrpcConfig(_Part):
    """The address of Triton's gRPC protocol, and the longest message that a client may send; without it, none."""

    host: str = "127.0.0.1"
    port: int = Field(default=8101, ge=1, le=65535)
    max_message_bytes: int = Field(default=2**31 - 1, ge=1024, le=2**31 - 1)


class UpstreamConfig(_Part):
    """One vLLM server: its base URL, and vLLM's names of the models that it serves (none: every model).

    `timeout_s` is the longest silence in seconds before an answer is given up.
    """

    url: str = Field(pattern=r"^https?://[^/]+$")
    timeout_s: float = Field(default=120.0, gt=0)
    models: frozenset[str] = frozenset()


class QueueConfig(_Part):
    """How many requests a process has at vLLM at once, for each of vLLM's models, and how many more may wait.

    Whoever comes when the queue is full, or waits longer than `max_wait_s`, is told to try again in `retry_after_s`.
    """

    max_in_flight: int = Field(default=4096, ge=1)
    max_waiting: int = Field(default=4096, ge=0)
    max_wait_s: float = Field(default=30.0, gt=0)
    retry_after_s: float = Field(default=1.0, ge=0)


class HealthConfig(_Part):
    """After `failures` in a row a server gets no requests for `probe_s`, and then until its /health answers 200."""

    failures: int = Field(default=3, ge=1)
    probe_s: float = Field(default=5.0, gt=0)


class LimitsConfig(_Part):
    """Bounds of one request on every HTTP path; times in seconds.

    `head_timeout_s`: to send request line and headers. `body_timeout_s`: between two pieces of the body.
    `write_timeout_s`: a client that takes nothing of its answer for so long is cut off. `request_timeout_s`: an answer.
    """

    max_body_bytes: int = Field(default=64 * 1024 * 1024, ge=1)
    max_head_bytes: int = Field(default=64 * 1024, ge=1024)
    max_headers: int = Field(default=128, ge=16)
    head_timeout_s: float = Field(default=10.0, gt=0)
    body_timeout_s: float = Field(default=30.0, gt=0)
    write_timeout_s: float = Field(default=60.0, gt=0)
    request_timeout_s: float = Field(default=3600.0, gt=0)


class RateConfig(_Part):
    """What one API key may do: requests a second with bursts, and requests at once; 0 sets no limit."""

    requests_per_s: float = Field(default=0.0, ge=0)
    burst: int = Field(default=10, ge=1)
    concurrent: int = Field(default=0, ge=0)


class OpenAiConfig(_Part):
    """The /v1 side. Keys come from `keys_file` (lines of NAME:KEY) and from the environment, never from this file.

    Without keys it is open to whoever reaches it. `rate` is for every key that `rates` does not name.
    """

    is_enabled: bool = True
    keys_file: Path | None = None
    keys_env: str = Field(default="GATEWAY_API_KEYS", pattern=r"^[A-Z_][A-Z0-9_]*$")
    rate: RateConfig = RateConfig()
    rates: dict[str, RateConfig] = Field(default_factory=dict)


class MetricsConfig(_Part):
    """An address for /metrics alone, as Triton has it on port 8002; worker N of several listens on `port` + N."""

    host: str = "127.0.0.1"
    port: int = Field(default=8002, ge=1, le=65535)


class LoggingConfig(_Part):
    """`prompts` puts the text of each prompt into its request's line: it is off unless you may keep them."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    requests: bool = True
    prompts: bool = False


class TracingConfig(_Part):
    """Where OpenTelemetry's spans go: a collector's OTLP address over HTTP, ending in /v1/traces."""

    endpoint: str = Field(pattern=r"^https?://[^/]+/.+$")
    service: str = "migrate-gateway"


class PassthroughConfig(_Part):
    """The Triton server that keeps the models which this file does not name: its HTTP base URL and gRPC HOST:PORT."""

    url: str = Field(pattern=r"^https?://[^/]+$")
    grpc: str = Field(default="", pattern=r"^([^/:]+:[0-9]+)?$")
    timeout_s: float = Field(default=120.0, gt=0)


class DrainConfig(_Part):
    """Stopping: not ready but still serving for `notice_s`, then `limit_s` for what is running to finish."""

    notice_s: float = Field(default=2.0, ge=0)
    limit_s: float = Field(default=30.0, ge=0)


class ModelConfig(_Part):
    """One Triton model: its request style, vLLM's name for it, its only version and its default length in tokens.

    `metadata` and `config` are what the old Triton answered on /v2/models/NAME and NAME/config; without them the model
    has the inputs and outputs of its style. Triton refuses a decoupled model on `infer` and ModelInfer; with
    `answers_infer` its response is given there when it is a single one. `is_loaded`: whether it serves from the start.
    `ends_apart`: over gRPC the old model marked the end of a stream by a response without outputs, not by its last one.
    """

    style: StyleName
    upstream_model: str = Field(min_length=1)
    version: str = Field(default="1", pattern=r"^[0-9]+$")
    default_max_tokens: int = Field(default=16, ge=1)
    metadata: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    answers_infer: bool = False
    ends_apart: bool = False
    is_loaded: bool = True


class GatewayConfig(_Part):
    """The whole file."""

    listen: Listen = Listen()
    grpc: GrpcConfig | None = None
    workers: int = Field(default=1, ge=1, le=64)
    upstream: UpstreamConfig | None = None
    upstreams: tuple[UpstreamConfig, ...] = ()
    queue: QueueConfig = QueueConfig()
    health: HealthConfig = HealthConfig()
    limits: LimitsConfig = LimitsConfig()
    openai: OpenAiConfig = OpenAiConfig()
    metrics: MetricsConfig | None = None
    logging: LoggingConfig = LoggingConfig()
    tracing: TracingConfig | None = None
    passthrough: PassthroughConfig | None = None
    drain: DrainConfig = DrainConfig()
    models: dict[str, ModelConfig] = Field(min_length=1)

    @property
    def servers(self) -> tuple[UpstreamConfig, ...]:
        """Every vLLM server, whether the file has one `upstream` or several `upstreams`."""
        return (self.upstream, *self.upstreams) if self.upstream else self.upstreams

    @cached_property
    def served_models(self) -> frozenset[str]:
        """vLLM's names that clients of /v1 may ask for: those of the Triton models, and those that the servers list."""
        named = frozenset(model.upstream_model for model in self.models.values())
        return named.union(*(server.models for server in self.servers))

    @model_validator(mode="after")
    def _every_model_has_a_server(self) -> Self:
        if (self.upstream is None) is not bool(self.upstreams):
            raise ValueError("give either upstream or upstreams")
        if len({server.url for server in self.servers}) < len(self.servers):
            raise ValueError("upstreams: two entries have the same url")
        for name, model in self.models.items():
            if not any(not server.models or model.upstream_model in server.models for server in self.servers):
                raise ValueError(f"models.{name}: no entry of upstreams serves {model.upstream_model}")
        return self


def load(path: Path) -> GatewayConfig:
    """Read the YAML file. Raises ConfigError naming the file and every key that is wrong."""
    try:
        return GatewayConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{path}: {wrong}") from error
