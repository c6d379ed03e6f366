"""Runtime, mode and profile: names, command lines, what is refused, and what the plan says of it."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from migrate import planner, profiles, runtimes
from migrate.errors import MigrateError, Refused, SettingsError
from migrate.inventory import SETTING_NAMES
from migrate.phases import NAMES
from migrate.plan import Plan
from migrate.settings import SECRETS, load
from tests.core.fakes import VARIABLES, facts, gpu_facts, settings

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def made(found: dict[str, Any] | None = None, **changed: Any) -> Plan:
    return planner.make("gpu01", settings(**changed), found or facts(), "p", NOW)


def steps_of(plan: Plan, phase: str) -> list[str]:
    return [f"{s.kind} {s.what} {s.after}" for p in plan.phases if p.phase == phase for s in p.steps]


def test_names_and_logs_of_each_runtime() -> None:
    names = {kind: runtimes.of(settings(vllm_runtime=kind)) for kind in ("docker", "podman", "process")}
    assert (names["docker"].vllm, names["docker"].logs) == ("vllm-vllm-1", "docker logs vllm-vllm-1")
    assert names["podman"].logs == names["process"].logs == "journalctl --unit migrate-vllm"
    assert names["podman"].python == ("podman", "exec", "migrate-vllm", "python3")
    assert names["process"].python == ("/var/lib/migrate/venv/bin/python",)


@pytest.mark.parametrize(
    ("image", "begins"), [("vllm-openai:v0.31.0", "/model"), ("vllm-openai:v0.11.0", "--model"), ("own:1", "/model")]
)
def test_old_images_know_the_model_by_an_option_alone(image: str, begins: str) -> None:
    assert runtimes.arguments(settings(vllm_image=image))[0] == begins


def test_flags_are_words() -> None:
    args = {"enforce-eager": True, "enable-prefix-caching": False, "dtype": "half", "cuda-graph-sizes": [1, 2]}
    found = runtimes.flags(settings(vllm_args=args))
    assert found == "--enforce-eager --no-enable-prefix-caching --dtype half --cuda-graph-sizes 1 2".split()


def test_the_operators_environment_decides() -> None:
    found = runtimes.environment(
        settings(vllm_runtime="podman", vllm_environment={"VLLM_HOST_IP": "10.0.0.1"}, vllm_cache_dir="/c")
    )
    assert found == {"VLLM_HOST_IP": "10.0.0.1", "HF_HOME": "/cache/huggingface", "VLLM_CACHE_ROOT": "/cache/vllm"}


def test_podman_that_is_absent_is_refused_and_podman_that_is_there_is_not() -> None:
    absent = facts() | {"podman": {"version": None, "reason": "podman: No such file or directory"}}
    with pytest.raises(Refused, match="podman is not on the host: podman: No such file"):
        made(absent, vllm_runtime="podman")
    plan = made(facts() | {"podman": {"version": "4.9.3", "reason": None}}, vllm_runtime="podman")
    assert any("unit vllm 127.0.0.1:18000" in step for step in steps_of(plan, "deploy"))


def test_a_process_needs_a_release_and_no_registry() -> None:
    with pytest.raises(SettingsError, match="names no release"):
        made(vllm_runtime="process", vllm_image="own:latest")
    plan = made(facts() | {"vllm_image": {"digest": None, "error": "no network"}}, vllm_runtime="process")
    assert plan.vllm_image_digest == ""
    assert "file /var/lib/migrate/venv vllm 0.31.0, torch: auto" in steps_of(plan, "stage")
    assert not [predicate for predicate in plan.read_set if predicate.key == "vllm_image.digest"]
    with pytest.raises(MigrateError, match="could not fetch"):
        made(facts() | {"vllm_image": {"digest": None, "error": "no network"}})


@pytest.mark.parametrize(
    ("machine", "platforms", "refused"),
    [
        ("aarch64", ["linux/amd64"], "aarch64"),
        ("aarch64", ["linux/amd64", "linux/arm64"], ""),
        ("x86_64", ["linux/arm64"], "x86_64"),
        ("riscv64", ["linux/amd64"], "riscv64"),
        ("x86_64", [], ""),
    ],
)
def test_an_image_of_another_architecture_is_refused_by_name(machine: str, platforms: list[str], refused: str) -> None:
    found = facts() | {"machine": machine}
    found["vllm_image"] = found["vllm_image"] | {"platforms": platforms}
    if not refused:
        assert made(found).vllm_image_digest
        return
    with pytest.raises(Refused, match=f"the host is {refused}") as error:
        made(found)
    assert ("v0.31.0-aarch64" in error.value.advice) == (machine == "aarch64")


def test_offline_ends_with_deploy_and_says_so() -> None:
    plan = made(vllm_mode="offline")
    assert [phase.phase for phase in plan.phases][-1] == "deploy"
    assert any(finding["name"] == "vllm_mode" for finding in plan.findings)
    assert not any("gateway 127" in step for step in steps_of(plan, "deploy"))
    assert [phase.phase for phase in made().phases] == list(NAMES)


@pytest.mark.parametrize("through", ["parity", "cutover", "soak"])
def test_offline_goes_no_further_than_deploy(through: str) -> None:
    with pytest.raises(Refused, match=f"not {through}") as error:
        runtimes.refuse_beyond_deploy("offline", through, NAMES)
    assert "--through deploy" in error.value.advice
    runtimes.refuse_beyond_deploy("offline", "deploy", NAMES)
    runtimes.refuse_beyond_deploy("server", through, NAMES)


def test_the_key_is_no_setting_and_leaves_the_host_variables() -> None:
    import re

    assert "vllm_api_key" in SECRETS
    flat = load(VARIABLES | {"vllm_api_key": "s3cret"}).flat()
    assert "s3cret" not in str(flat)
    assert not re.match(SETTING_NAMES, "vllm_api_key")
    assert re.match(SETTING_NAMES, "vllm_args")
    with pytest.raises(SettingsError, match="unknown setting"):
        load(VARIABLES | {"vllm_api_keys": "s3cret"})


def sized(billions: float, **changed: Any) -> profiles.Chosen:
    found = copy.deepcopy(gpu_facts())
    del found["weights"]["texts"]["config.json"]
    layers = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 1, "vocab_size": 8}
    text = {"architectures": ["UnknownForCausalLM"], "torch_dtype": "float16", "max_position_embeddings": 64} | layers
    found["weights"]["texts"]["config.json"] = __import__("json").dumps(text)
    number = int(billions * 1e9)
    found["weights"]["safetensors"] = {"files": 1, "bytes": 2 * number, "parameters": {"F16": number}, "error": None}
    return profiles.choose(settings(vllm_gpus="all", **changed), found)


@pytest.mark.parametrize(("billions", "name"), [(2.7, "small"), (8.0, "small"), (14.0, "medium"), (32.0, "large")])
def test_auto_goes_by_parameters_and_never_changes_answers(billions: float, name: str) -> None:
    chosen = sized(billions)
    assert chosen.name == name
    assert "billion parameters" in chosen.because
    assert "kv-cache-dtype" not in chosen.flags


def test_a_named_profile_may_shrink_the_kv_cache_where_the_card_can() -> None:
    assert sized(2.7, vllm_profile="large").flags["kv-cache-dtype"][0] == "fp8"
    old = copy.deepcopy(gpu_facts())
    old["gpus"][0]["compute_capability"] = "8.0"
    assert "kv-cache-dtype" not in profiles.choose(settings(vllm_gpus="all", vllm_profile="large"), old).flags


def test_old_releases_keep_their_batch() -> None:
    assert "max-num-batched-tokens" not in sized(8.0, vllm_image="vllm/vllm-openai:v0.6.6").flags
    assert "max-num-batched-tokens" not in sized(8.0, vllm_args={"enable-chunked-prefill": False}).flags


def test_what_others_decided_stays_and_nothing_contradicts_it() -> None:
    small = sized(2.7)
    assert profiles.flags(small, {"max-num-seqs": 8}) == {"max-num-batched-tokens": 8192}
    assert profiles.flags(small, {"max-num-batched-tokens": 64}) == {}
    assert profiles.flags(small, {"max-num-batched-tokens": "8k"}) == {}


def test_the_plan_says_what_the_profile_adds_and_why() -> None:
    plan = made(gpu_facts(), vllm_gpus="all")
    lines = [entry for model in plan.translation for entry in model["entries"] if "profile" in entry["source"]]
    assert [(line["target"], line["result"]) for line in lines] == [("--max-num-batched-tokens", 8192)]
    assert "2.8 billion parameters" in lines[0]["reason"]
    assert plan.settings["vllm_args"]["max-num-batched-tokens"] == 8192
    without = made(gpu_facts(), vllm_gpus="all", vllm_profile="none")
    assert "max-num-batched-tokens" not in without.settings["vllm_args"]
    assert "max-num-batched-tokens" not in made().settings["vllm_args"]
