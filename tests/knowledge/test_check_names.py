"""Names that the release table does not have: what they are near to, and what is left to the image."""

from __future__ import annotations

import pytest

from migrate.knowledge import Severity, check

from .good import GOOD_ENVIRONMENT, GOOD_FLAGS, found


@pytest.mark.parametrize(
    ("flag", "near"),
    [
        ("max-num-seq", "max-num-seqs"),
        ("max-num-sequences", "max-num-seqs"),
        ("gpu-memory-utilisation", "gpu-memory-utilization"),
        ("enable-prefix", "enable-prefix-caching"),
    ],
)
def test_a_typing_error_gets_the_nearest_flag(flag: str, near: str) -> None:
    finding = found("0.31.0", flag, {flag: "1"})
    assert finding is not None
    assert (finding.severity, finding.replacement) == (Severity.ERROR, f"did you mean {near}?")
    assert found("0.31.0", near, {near: "1"}) is None


@pytest.mark.parametrize(
    ("flag", "told", "not_told"),
    [
        ("disable-log-request", "requests are not logged unless", "did you mean enable-log-requests"),
        ("cuda-graph-size", "cudagraph-capture-sizes", "did you mean"),
        ("swap-spce", "leave it out", "did you mean"),
        ("Max-Model-Len", "did you mean max-model-len?", "stage"),
        ("SWAP-SPACE", "leave it out", "did you mean"),
        ("TP", "tensor-parallel-size", "stage"),
        ("max-batch-size", "max-num-seqs", "ubatch-size"),
        ("num-gpu", "tensor-parallel-size", "num-gpu-blocks-override"),
        ("num-gpus", "tensor-parallel-size", "num-gpu-blocks-override"),
        ("no-enable-prefix-cachng", "did you mean no-enable-prefix-caching?", "stage"),
        ("max-num-queued-request", "did you mean max-num-queued-reqs?", "stage"),
    ],
)
def test_what_is_suggested_is_alive_and_no_opposite(flag: str, told: str, not_told: str) -> None:
    finding = found("0.31.0", flag, {flag: "1"})
    assert finding is not None
    assert finding.severity is Severity.ERROR
    assert told in finding.replacement
    assert not_told not in finding.replacement


def test_a_near_name_that_a_later_release_brings_is_said_to_be_new() -> None:
    finding = found("0.28.0", "max-num-queued-req", {"max-num-queued-req": 1})
    assert finding is not None
    assert (finding.severity, "0.29.0 or later" in finding.replacement) == (Severity.ERROR, True)


@pytest.mark.parametrize("flag", ["tensor-parallel-size", "max-model-len", "dtype", "swap-space", "port"])
def test_only_a_switch_has_a_no_form(flag: str) -> None:
    finding = found("0.17.0", f"no-{flag}", {f"no-{flag}": True})
    assert finding is not None
    assert (finding.severity, finding.replacement) == (Severity.ERROR, f"leave it out, or give {flag} a value")


@pytest.mark.parametrize("flag", ["async-scheduling", "enable-chunked-prefill", "enforce-eager", "trust-remote-code"])
def test_a_switch_has_a_no_form(flag: str) -> None:
    assert found("0.31.0", f"no-{flag}", {f"no-{flag}": True}) is None


@pytest.mark.parametrize("name", ["VLLM_IMAGE", "VLLM_TAG", "VLLM_MODEL", "VLLM_"])
def test_an_operators_variable_is_no_typing_error(name: str) -> None:
    finding = found("0.31.0", name, environment={name: "x"})
    assert finding is not None
    assert finding.severity is Severity.REVIEW


def test_a_near_variable_that_is_gone_has_its_replacement() -> None:
    finding = found("0.31.0", "VLLM_ATENTION_BACKEND", environment={"VLLM_ATENTION_BACKEND": "FLASH_ATTN"})
    assert finding is not None
    assert "--attention-backend" in finding.replacement


def test_a_flag_that_nobody_knows_is_left_to_stage() -> None:
    finding = found("0.31.0", "our-own-plugin", {"our-own-plugin": True})
    assert finding is not None
    assert finding.severity is Severity.REVIEW
    assert finding.problem == "not known to this project's table; stage asks the image"


@pytest.mark.parametrize(
    "name", ["max_num_seqs", "--max-num-seqs", "hf-overrides.rope_theta", "no-enable-prefix-caching"]
)
def test_a_flag_may_be_spelled_as_vllm_takes_it(name: str) -> None:
    assert check("0.31.0", GOOD_FLAGS | {name: 1}, GOOD_ENVIRONMENT) == []


def test_a_flag_without_a_value_is_not_passed_and_not_judged() -> None:
    assert found("0.31.0", "swap-space", {"swap-space": None}) is None


def test_an_own_name_with_vllms_prefix_is_for_review_and_an_error_where_vllm_ends_at_it() -> None:
    own = {"VLLM_IMAGE_MIRROR_OF_OURS": "x"}
    finding = found("0.31.0", "VLLM_IMAGE_MIRROR_OF_OURS", environment=own)
    assert finding is not None
    assert finding.severity is Severity.REVIEW
    assert "another prefix" in finding.replacement
    hard = found("0.31.0", "VLLM_IMAGE_MIRROR_OF_OURS", {"fail-on-environ-validation": True}, own)
    assert hard is not None
    assert hard.severity is Severity.ERROR
    assert found("0.31.0", "OUR_IMAGE", environment={"OUR_IMAGE": "x"}) is None


def test_a_typing_error_in_a_variable_gets_the_nearest_one() -> None:
    finding = found("0.31.0", "VLLM_LOGGING_LEVL", environment={"VLLM_LOGGING_LEVL": "DEBUG"})
    assert finding is not None
    assert (finding.severity, finding.replacement) == (Severity.ERROR, "did you mean VLLM_LOGGING_LEVEL?")
