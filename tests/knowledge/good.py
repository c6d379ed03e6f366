"""Settings of which nothing is to be said, and the finding that one wrong setting beside them gets."""

from __future__ import annotations

from typing import Any

from migrate.knowledge import Finding, check

GOOD_FLAGS = {
    "gpu-memory-utilization": 0.9,
    "generation-config": "vllm",
    "shutdown-timeout": 30,
    "max-model-len": 2048,
}
GOOD_ENVIRONMENT = {"VLLM_ENGINE_READY_TIMEOUT_S": "1200", "VLLM_LOGGING_LEVEL": "INFO", "HF_HUB_OFFLINE": "1"}


def found(version: str | None, name: str, flags: Any = None, environment: Any = None, **host: Any) -> Finding | None:
    """The finding about one name, None where there is none."""
    findings = check(version, GOOD_FLAGS | (flags or {}), GOOD_ENVIRONMENT | (environment or {}), **host)
    mine = [finding for finding in findings if finding.name == name]
    assert len(mine) <= 1, mine
    for finding in findings:
        assert finding.problem
        assert finding.replacement, f"{finding.name} does not say what to write instead"
        assert finding.source
    return mine[0] if mine else None
