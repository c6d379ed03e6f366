"""A run that breaks in one way after the other, and still ends where it began."""

from __future__ import annotations

import docker
import pytest

from .conftest import Lab

pytestmark = pytest.mark.e2e
MODEL = "/srv/triton/models/phi2/1/model.py"


def test_a_run_that_breaks_at_every_turn(changed_lab: Lab, engine: docker.DockerClient) -> None:
    lab = changed_lab
    lab.set(vllm_args={"dtype": "float32", "no-such-flag": 1})
    assert lab.migrate("apply", "--host", "gpu01", "--yes", "--through", "provision").code == 0

    registry = engine.containers.get("migrate-lab-registry")
    registry.stop()
    for repository in ("migrate-gateway", "registry.lab:5000/vllm-openai"):
        lab.on_host(f"docker images -q {repository} | sort -u | xargs -r docker rmi -f")
    try:
        ended = lab.migrate("continue", "--host", "gpu01", "--through", "stage")
    finally:
        registry.start()
    assert ended.code == 5
    assert "stage" in ended.err

    ended = lab.migrate("continue", "--host", "gpu01", "--through", "deploy")
    assert ended.code == 5
    assert "no-such-flag" in ended.err
    assert "vllm_args" in ended.err
    assert ended.err.count("SERVING triton 100 %") == 1

    assert lab.migrate("apply", "--host", "gpu01", "--yes").code == 8

    lab.on_host(f"printf ' ' >> {MODEL}")
    try:
        ended = lab.migrate("rollback", "--host", "gpu01", "--to", "before-deploy")
    finally:
        lab.on_host(f"truncate -s -1 {MODEL}")
    assert ended.code == 7
    assert "phi2/1/model.py" in ended.err

    ended = lab.migrate("rollback", "--host", "gpu01", "--to", "before-deploy")
    assert ended.code == 0
    assert "SERVING triton 100 %" in ended.out

    assert lab.migrate("rollback", "--host", "gpu01").code == 0
