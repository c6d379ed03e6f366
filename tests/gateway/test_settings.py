"""The sections of the YAML file around the models; today's file, with one `upstream` and nothing else, stays valid."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from migrate.gateway.config import GatewayConfig

MODELS = {"phi2": {"style": "python", "upstream_model": "phi-2"}}
ONE = {"url": "http://vllm:8000"}
PHI, LLAMA = ONE | {"models": ["phi-2"]}, {"url": "http://b:8000", "models": ["llama"]}


def read(**sections: Any) -> GatewayConfig:
    return GatewayConfig.model_validate({"models": MODELS} | sections)


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({}, "give either upstream or upstreams"),
        ({"upstream": ONE, "upstreams": [LLAMA]}, "give either upstream or upstreams"),
        ({"upstreams": [ONE, ONE]}, "two entries have the same url"),
        ({"upstreams": [LLAMA]}, "models.phi2: no entry of upstreams serves phi-2"),
        ({"upstream": ONE, "openai": {"keys": ["secret"]}}, "openai.keys"),
        ({"upstream": ONE, "openai": {"rate": {"requests_per_s": -1}}}, "openai.rate.requests_per_s"),
        ({"upstream": ONE, "limits": {"max_body_bytes": 0}}, "limits.max_body_bytes"),
        ({"upstream": ONE, "queue": {"max_in_flight": 0}}, "queue.max_in_flight"),
        ({"upstream": ONE, "passthrough": {"url": "http://triton:8000/v2"}}, "passthrough.url"),
        ({"upstream": ONE, "passthrough": {"url": "http://triton:8000", "grpc": "triton"}}, "passthrough.grpc"),
        ({"upstream": ONE, "tracing": {"endpoint": "http://collector:4318"}}, "tracing.endpoint"),
        ({"upstream": ONE, "logging": {"level": "loud"}}, "logging.level"),
        ({"upstream": ONE, "workers": 0}, "workers"),
    ],
)
def test_wrong_sections(sections: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as raised:
        read(**sections)
    told = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in raised.value.errors()]
    assert any(named in line for line in told), told


def test_the_file_of_today() -> None:
    config = read(listen={"host": "0.0.0.0", "port": 8100}, upstream=ONE | {"timeout_s": 120})
    assert [server.url for server in config.servers] == ["http://vllm:8000"]
    assert (config.workers, config.metrics, config.grpc, config.tracing, config.passthrough) == (
        1,
        None,
        None,
        None,
        None,
    )
    assert config.served_models == {"phi-2"}


def test_several_servers() -> None:
    config = read(upstreams=[PHI, LLAMA])
    assert config.served_models == {"phi-2", "llama"}
    assert [server.url for server in config.servers] == ["http://vllm:8000", "http://b:8000"]
