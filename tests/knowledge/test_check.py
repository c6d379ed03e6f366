"""Each kind of wrong setting in a release that must find it, and in one that must not."""

from __future__ import annotations

import pytest

from migrate.knowledge import Severity, check, check_capability, check_metrics

from .good import GOOD_ENVIRONMENT, GOOD_FLAGS, found


@pytest.mark.parametrize(
    ("flag", "fails", "passes", "replacement"),
    [
        ("swap-space", "0.18.0", "0.17.1", "leave it out"),
        ("task", "0.13.0", "0.12.0", "runner"),
        ("device", "0.10.0", "0.9.2", "leave it out"),
        ("num-scheduler-steps", "0.10.1", "0.10.0", "async-scheduling"),
        ("guided-decoding-backend", "0.12.0", "0.11.2", "structured-outputs-config"),
        ("rope-scaling", "0.11.1", "0.11.0", "hf-overrides"),
        ("cuda-graph-sizes", "0.13.0", "0.12.0", "cudagraph-capture-sizes"),
        ("disable-log-requests", "0.17.0", "0.16.0", "enable-log-requests"),
        ("disable-frontend-multiprocessing", "0.19.0", "0.18.1", "leave it out"),
        ("max-num-partial-prefills", "0.27.0", "0.26.0", "leave it out"),
        ("calculate-kv-scales", "0.28.0", "0.27.1", "kv-cache-dtype"),
        ("engine-use-ray", "0.6.1.post1", "0.6.1", "distributed-executor-backend"),
        ("attention-backend", "0.12.0", "0.13.0", "vllm_image of 0.13.0 or later"),
        ("shutdown-timeout", "0.17.1", "0.18.0", "vllm_image of 0.18.0 or later"),
        ("fail-on-environ-validation", "0.16.0", "0.17.0", "vllm_image of 0.17.0 or later"),
        ("max-num-queued-reqs", "0.28.0", "0.29.0", "vllm_image of 0.29.0 or later"),
    ],
)
def test_a_flag_is_an_error_in_the_releases_without_it(flag: str, fails: str, passes: str, replacement: str) -> None:
    finding = found(fails, flag, {flag: "1"})
    assert finding is not None
    assert (finding.kind, finding.severity) == ("flag", Severity.ERROR)
    assert replacement in finding.replacement
    assert found(passes, flag, {flag: "1"}) is None


@pytest.mark.parametrize(
    ("variable", "fails", "passes", "replacement"),
    [
        ("VLLM_ATTENTION_BACKEND", "0.15.0", "0.14.1", "--attention-backend"),
        ("VLLM_FLASH_ATTN_VERSION", "0.15.0", "0.14.1", "--attention-config"),
        ("VLLM_USE_V1", "0.11.1", "0.11.0", "leave it out"),
        ("VLLM_TORCH_PROFILER_DIR", "0.16.0", "0.15.1", "--profiler-config"),
        ("VLLM_ENGINE_ITERATION_TIMEOUT_S", "0.32.0", "0.31.0", "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"),
        ("VLLM_USE_RUST_FRONTEND", "0.13.0", "0.33.0", "or later"),
    ],
)
def test_a_variable_is_an_error_in_the_releases_without_it(
    variable: str, fails: str, passes: str, replacement: str
) -> None:
    finding = found(fails, variable, environment={variable: "1"})
    assert finding is not None
    assert (finding.kind, finding.severity) == ("environment", Severity.ERROR)
    assert replacement in finding.replacement
    assert found(passes, variable, environment={variable: "1"}) is None


@pytest.mark.parametrize("version", ["0.6.6", "0.31.0", None, "0.99.0"])
def test_sglangs_flag_never_was_vllms(version: str | None) -> None:
    finding = found(version, "chunked-prefill-size", {"chunked_prefill_size": 2048})
    assert finding is not None
    assert finding.severity is Severity.ERROR
    assert "max-num-batched-tokens" in finding.replacement


@pytest.mark.parametrize(
    ("name", "version", "without", "told"),
    [
        ("gpu-memory-utilization", "0.19.1", "gpu-memory-utilization", "0.9"),
        ("gpu-memory-utilization", "0.20.0", "gpu-memory-utilization", "0.92"),
        ("generation-config", "0.8.0", "generation-config", "vllm"),
        ("shutdown-timeout", "0.18.0", "shutdown-timeout", "30"),
    ],
)
def test_a_default_that_changed_is_for_review_where_it_is_not_set(
    name: str, version: str, without: str, told: str
) -> None:
    flags = {key: value for key, value in GOOD_FLAGS.items() if key != without}
    finding = next(finding for finding in check(version, flags, GOOD_ENVIRONMENT) if finding.kind == "default")
    assert (finding.name, finding.severity) == (name, Severity.REVIEW)
    assert told in finding.replacement
    assert found(version, name) is None


def test_the_ready_timeout_may_be_shorter_than_ours() -> None:
    kinds = {finding.name for finding in check("0.14.0", GOOD_FLAGS, {}) if finding.kind == "default"}
    assert kinds == {"VLLM_ENGINE_READY_TIMEOUT_S"}
    assert not [finding for finding in check("0.13.0", GOOD_FLAGS, {}) if finding.kind == "default"]


def test_without_a_gpu_nothing_is_said_of_its_memory() -> None:
    flags = {key: value for key, value in GOOD_FLAGS.items() if key != "gpu-memory-utilization"}
    assert check("0.31.0", flags, GOOD_ENVIRONMENT | {"VLLM_CPU_KVCACHE_SPACE": "1"}) == []


@pytest.mark.parametrize(
    ("version", "driver", "environment", "severity"),
    [
        ("0.15.0", "580.95.05", {}, Severity.ERROR),
        ("0.16.0", "590.1", {}, Severity.ERROR),
        ("0.16.0", "580.95.05", {"LD_LIBRARY_PATH": "/usr/lib/x86_64-linux-gnu"}, None),
        ("0.16.0", "570.86.10", {}, None),
        ("0.16.0", None, {}, None),
        ("0.14.1", "580.95.05", {}, None),
        ("0.17.0", "580.95.05", {}, None),
    ],
)
def test_error_803(version: str, driver: str | None, environment: dict[str, str], severity: Severity | None) -> None:
    finding = found(version, "Error 803", environment=environment, driver=driver)
    assert (finding and finding.severity) == severity
    assert finding is None or "0.17.0" in finding.replacement


@pytest.mark.parametrize(
    ("version", "driver", "environment", "severity"),
    [
        ("0.31.0", "570.86.10", {}, Severity.ERROR),
        ("0.31.0", "570.86.10", {"VLLM_ENABLE_CUDA_COMPATIBILITY": "1"}, Severity.REVIEW),
        ("0.31.0", "580.95.05", {}, None),
        ("0.31.0", None, {}, None),
        ("0.19.1", "570.86.10", {}, None),
        ("0.19.1", "470.1", {}, Severity.ERROR),
    ],
)
def test_the_driver_must_run_the_images_cuda(
    version: str, driver: str | None, environment: dict[str, str], severity: Severity | None
) -> None:
    finding = found(version, "driver", environment=environment, driver=driver)
    assert (finding and finding.severity) == severity
    assert finding is None or version != "0.31.0" or "-cu129" in finding.replacement


def test_phi_left_in_032() -> None:
    finding = found("0.32.0", "PhiForCausalLM", architecture="PhiForCausalLM")
    assert finding is not None
    assert (finding.kind, finding.severity) == ("model", Severity.REVIEW)
    assert found("0.31.0", "PhiForCausalLM", architecture="PhiForCausalLM") is None
    assert found("0.32.0", "PhiForCausalLM", architecture="Qwen2ForCausalLM") is None


def test_flashinfer_does_not_take_phis_heads() -> None:
    name, flags = "PhiForCausalLM on FLASHINFER", {"attention-backend": "flashinfer"}
    finding = found("0.31.0", name, flags, architecture="PhiForCausalLM")
    assert finding is not None
    assert finding.severity is Severity.ERROR
    assert found("0.31.0", name, flags, architecture="LlamaForCausalLM") is None
    assert found("0.31.0", name, {"attention-backend": "FLASH_ATTN"}, architecture="PhiForCausalLM") is None


@pytest.mark.parametrize("flags", [{"quantization": "gguf"}, {"load-format": "gguf"}])
def test_gguf_needs_a_plugin_from_024(flags: dict[str, str]) -> None:
    finding = found("0.24.0", "GGUF", flags)
    assert finding is not None
    assert "vllm-gguf-plugin" in finding.replacement
    assert found("0.23.0", "GGUF", flags) is None
    assert found("0.24.0", "GGUF", {"quantization": "awq"}) is None


@pytest.mark.parametrize(("version", "told"), [("0.6.6", True), ("0.6.6.post1", True), ("0.11.1", False)])
def test_the_openai_server_of_066(version: str, told: bool) -> None:
    flags = {key: value for key, value in GOOD_FLAGS.items() if key != "shutdown-timeout"}
    names = {finding.name for finding in check(version, flags, {})}
    assert ("OpenAI server and transformers 5" in names) == told


def test_where_the_release_is_not_known_only_what_never_was_is_an_error() -> None:
    flags = GOOD_FLAGS | {"swap-space": 4, "attention-backend": "FLASH_ATTN", "max-num-seq": 1}
    findings = {finding.name: finding.severity for finding in check(None, flags, {"VLLM_USE_V1": "1"})}
    assert findings == {
        "max-num-seq": Severity.ERROR,
        "vllm_image": Severity.REVIEW,
        "swap-space": Severity.REVIEW,
        "VLLM_USE_V1": Severity.REVIEW,
    }


@pytest.mark.parametrize(("version", "told"), [("0.34.0", "newer"), ("0.5.5", "older"), ("0.33.0", ""), ("0.6.0", "")])
def test_a_release_outside_the_table_is_said_to_be(version: str, told: str) -> None:
    flags = {"max-model-len": 2048}
    problems = [finding.problem for finding in check(version, flags, {}) if finding.name == "vllm_image"]
    assert [told in problem for problem in problems] == ([True] if told else [])


def test_errors_come_first() -> None:
    severities = [
        finding.severity for finding in check("0.31.0", {"zz-own": 1, "swap-space": 4}, {"VLLM_OWN_NAME": ""})
    ]
    assert severities == sorted(severities, key=lambda severity: severity is not Severity.ERROR)
    assert severities[0] is Severity.ERROR


def test_good_settings_have_no_findings() -> None:
    assert check("0.31.0", GOOD_FLAGS, GOOD_ENVIRONMENT, architecture="PhiForCausalLM", driver="580.159.04") == []


@pytest.mark.parametrize(
    ("metric", "fails", "passes", "replacement"),
    [
        ("vllm:gpu_cache_usage_perc", "0.12.0", "0.11.2", "vllm:kv_cache_usage_perc"),
        ("vllm:time_per_output_token_seconds_bucket", "0.15.0", "0.14.1", "vllm:inter_token_latency_seconds"),
        ("vllm:num_requests_waiting_by_reason", "0.19.1", "0.20.0", "0.20.0 or later"),
        ("vllm:admission_rejections_total", "0.31.0", "0.32.0", "0.32.0 or later"),
        ("vllm:prompt_tokens_totl", "0.31.0", None, "did you mean vllm:prompt_tokens_total?"),
        ("vllm:nobody_has_this", "0.31.0", None, "/metrics"),
    ],
)
def test_a_metric_in_the_releases_without_it(metric: str, fails: str, passes: str | None, replacement: str) -> None:
    (finding,) = check_metrics(fails, [metric])
    assert finding.kind == "metric"
    assert replacement in finding.replacement
    assert check_metrics(passes, [metric]) == []


def test_metrics_of_others_are_not_judged() -> None:
    assert check_metrics("0.31.0", ["up", "nv_inference_count"]) == []


@pytest.mark.parametrize(
    ("version", "capability", "error"),
    [
        ("0.9.1", "12.0", True),
        ("0.9.2", "12.0", False),
        ("0.9.1", "9.0", False),
        (None, "12.0", False),
        ("0.9.1", "", False),
        ("0.9.1", "abc", False),
    ],
)
def test_blackwell_needs_an_image_with_its_code(version: str | None, capability: str, error: bool) -> None:
    assert bool(check_capability(version, capability)) == error
