"""The image's own help against the planned options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.checks.conftest import SmallHost

CASES = Path(__file__).parent / "cases"
IMAGE = "registry.lab:5000/vllm-openai@sha256:" + "a" * 64
HELP = (CASES / "vllm_help_all_0.31.txt").read_text()
GROUPS = (CASES / "vllm_help_groups_0.31.txt").read_text()
OLD_HELP = (CASES / "vllm_help_0.8.txt").read_text()


def asked(host: SmallHost, args: dict[str, Any], **settings: Any) -> tuple[int, dict[str, Any]]:
    return host.check("vllm_flags", vllm_image_digest=IMAGE, vllm_args=args, **settings)


@pytest.mark.parametrize(
    ("args", "unknown", "nearest"),
    [
        ({"swap-space": 4}, "--swap-space", ""),
        ({"max-num-seq": 8}, "--max-num-seq", "--max-num-seqs"),
        ({"dtype": False}, "--no-dtype", "--dtype"),
        ({"json-arg": "{}"}, "--json-arg", ""),
        ({"key1": 1, "dtype": "half"}, "--key1", ""),
    ],
)
def test_an_option_that_the_image_does_not_know_fails(
    host: SmallHost, args: dict[str, Any], unknown: str, nearest: str
) -> None:
    host.command("docker", HELP, when="--help=all")
    rc, found = asked(host, args)
    assert (rc, found["verdict"]) == (1, "fail")
    assert found["measured"].endswith(f": {unknown}")
    assert f"{unknown}: " in found["detail"]
    assert nearest in found["detail"]
    assert "vllm_args" in found["advice"]


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"dtype": "float32", "max-model-len": 512, "enforce-eager": True, "tensor-parallel-size": 1},
        {"max_num_seqs": 8, "enable-prefix-caching": False, "hf-overrides.rope_theta": 1, "swap-space": None},
    ],
)
def test_options_that_the_image_knows_pass(host: SmallHost, args: dict[str, Any]) -> None:
    host.command("docker", HELP, when="--help=all")
    rc, found = asked(host, args)
    assert (rc, found["verdict"]) == (0, "pass"), found


def test_an_old_image_is_asked_for_its_plain_help(host: SmallHost) -> None:
    host.command("docker", OLD_HELP, when="--help")
    host.command("docker", "", rc=2, error="argument -h/--help: ignored explicit argument", when="--help=all")
    assert asked(host, {"swap-space": 4, "enforce-eager": True})[1]["verdict"] == "pass"
    assert asked(host, {"enforce-eager": False})[1]["measured"].endswith("--no-enforce-eager")


def test_help_that_lists_groups_alone_is_no_help(host: SmallHost) -> None:
    host.command("docker", GROUPS)
    rc, found = asked(host, {})
    assert (rc, found["verdict"]) == (2, "error")


def test_a_failed_container_is_an_error_that_says_why(host: SmallHost) -> None:
    host.command("docker", "", rc=1, error="RuntimeError: Failed to infer device type")
    rc, found = asked(host, {})
    assert (rc, found["verdict"]) == (2, "error")
    assert "Failed to infer device type" in found["measured"]
    assert found["advice"].startswith("docker run")


def test_help_that_is_whole_but_ends_badly_is_an_error(host: SmallHost) -> None:
    host.command("docker", HELP, rc=1, error="killed")
    assert asked(host, {})[1]["verdict"] == "error"


def test_without_docker_it_is_an_error(host: SmallHost) -> None:
    rc, found = asked(host, {})
    assert (rc, found["verdict"]) == (2, "error")
    assert "docker is not installed" in found["measured"]


def test_an_image_that_does_not_answer_is_given_up_and_removed(host: SmallHost) -> None:
    docker = host.folder / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\necho "$*" >>{host.folder}/calls\n[ "$1" = rm ] || exec /bin/sleep 30\n')
    docker.chmod(0o755)
    rc, found = asked(host, {}, vllm_flags_timeout_s=0.2)
    assert (rc, found["verdict"]) == (2, "error")
    calls = (host.folder / "calls").read_text().splitlines()
    assert calls[-1].startswith("rm --force migrate-vllm-flags-")
    assert len(calls) == 2, "an image that hangs is not asked again"


@pytest.mark.parametrize(("gpus", "passed"), [("none", ""), ("all", "--gpus all")])
def test_a_cuda_image_gets_its_gpus_and_never_a_network(host: SmallHost, gpus: str, passed: str) -> None:
    docker = host.folder / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\necho "$*" >>{host.folder}/calls\n/bin/cat {CASES / "vllm_help_all_0.31.txt"}\n')
    docker.chmod(0o755)
    assert asked(host, {}, vllm_gpus=gpus)[1]["verdict"] == "pass"
    call = (host.folder / "calls").read_text()
    assert "--network none" in call
    assert ("--gpus" in call) == bool(passed)
    assert passed in call
    assert json.dumps(IMAGE)[1:-1] + " --help=all" in call
