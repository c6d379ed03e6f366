"""`doctor` on the real host: nothing is wrong with it, and what cannot be reached is said."""

from __future__ import annotations

import json

import pytest

from .conftest import Lab

pytestmark = pytest.mark.e2e


def test_nothing_is_wrong_with_the_lab(lab: Lab) -> None:
    ended = lab.migrate("doctor", "--host", "gpu01", "--json")
    found = json.loads(ended.out.splitlines()[-1])
    assert found["type"] == "doctor", ended.out
    assert found["findings"] == []
    assert {"triton_serving", "port_serves", "docker_engine"} <= found["fine"].keys()
    assert ended.code == (8 if found["leftovers"] or found["undecided"] else 0)


def test_a_triton_that_was_stopped_is_named(lab: Lab) -> None:
    try:
        lab.on_host("docker stop --time 5 triton-triton-1")
        ended = lab.migrate("doctor", "--host", "gpu01")
    finally:
        lab.on_host(
            "docker start triton-triton-1; "
            "timeout 120 sh -c 'until curl -fs http://127.0.0.1:8000/v2/health/ready; do sleep 1; done'"
        )
    assert ended.code == 5
    assert "docker start triton-triton-1" in ended.out
    assert "shows  in triton_serving" in ended.out


def test_a_host_out_of_reach(lab: Lab) -> None:
    lab.set_host(ansible_port=2999)
    ended = lab.migrate("doctor", "--host", "gpu01")
    assert ended.code == 9, ended.err
    assert "gpu01" in ended.err
