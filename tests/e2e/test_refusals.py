"""Bad input against the real host: named, with its exit code, and nothing touched."""

from __future__ import annotations

import pytest

from .conftest import Lab

pytestmark = pytest.mark.e2e


def test_an_unknown_host(lab: Lab) -> None:
    ended = lab.migrate("plan", "--host", "gpu1")
    assert ended.code == 64
    assert "did you mean gpu01" in ended.err


@pytest.mark.parametrize(
    ("variables", "code", "named"),
    [
        ({"vllm_imag": "x"}, 64, "host_vars/gpu01.yml:1"),
        ({"triton_http_port": 8999}, 3, "triton_http_port"),
        ({"triton_model_repository": "/srv/nothing"}, 3, "triton_model_repository"),
        ({"vllm_weights_source": "/srv/nothing"}, 3, "vllm_weights_source"),
        ({"vllm_image": "registry.lab:5000/vllm-openai:v9"}, 5, "vllm_image"),
        ({"ansible_port": 2999}, 9, "gpu01"),
        ({"ansible_ssh_private_key_file": "/nonexistent"}, 9, "gpu01"),
    ],
)
def test_a_bad_setting_is_named_and_nothing_is_touched(
    lab: Lab, variables: dict[str, object], code: int, named: str
) -> None:
    lab.set_host(**variables)
    ended = lab.migrate("apply", "--host", "gpu01", "--yes")
    assert ended.code == code, ended.err
    assert named in ended.err
    assert "Traceback" not in ended.err


def test_without_a_terminal_apply_wants_yes(lab: Lab) -> None:
    ended = lab.migrate("apply", "--host", "gpu01")
    assert ended.code == 10
    assert "--yes" in ended.err


def test_a_taken_port_ends_before_any_change(lab: Lab) -> None:
    lab.on_host("systemd-run --unit=squatter python3 -m http.server 18000 --bind 127.0.0.1")
    try:
        ended = lab.migrate("apply", "--host", "gpu01", "--yes")
    finally:
        lab.on_host("systemctl stop squatter")
    assert ended.code == 5
    assert "18000" in ended.err


def test_rollback_of_nothing_is_nothing(lab: Lab) -> None:
    assert lab.migrate("rollback", "--host", "gpu01").code == 0
