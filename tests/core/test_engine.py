"""The engine: Triton's settings under the inventory's, held against the release."""

import json
from typing import Any

import pytest

from migrate import engine as engines
from migrate.errors import Refused, SettingsError

from .fakes import facts, settings

VLLM_CONFIG = 'backend: "vllm" instance_group [ { count: 1 kind: KIND_MODEL } ]'
VLLM_FILES = {
    "1/model.json": json.dumps(
        {
            "model": "/models/m",
            "gpu_memory_utilization": 0.5,
            "enable_lora": True,
            "max_lora_rank": 16,
            "max_num_seqs": 8,
        }
    ),
    "1/multi_lora.json": json.dumps({"adapter": "/models/a"}),
}


def engine(found: dict[str, Any] | None = None, **changed: Any) -> engines.Engine:
    return engines.engine(settings(**changed), found or facts())


def test_triton_s_settings_become_flags() -> None:
    made = engine()
    assert made.flags["max-num-seqs"] == 8
    assert made.flags["dtype"] == "float16"
    assert "gpu-memory-utilization" not in made.flags


def test_the_inventory_outranks_the_translation_and_says_so() -> None:
    made = engine(vllm_args={"max-num-seqs": 4})
    assert made.flags["max-num-seqs"] == 4
    reasons = [entry.reason for model in made.models for entry in model.entries if entry.source.startswith("vllm_args")]
    assert reasons == ["the inventory decides, not 8"]


@pytest.mark.parametrize("changed", [{}, {"vllm_args": {"max-num-seqs": 4}}, {"vllm_image": "vllm/vllm-openai:v0.6.0"}])
def test_no_entry_names_a_flag_that_is_not_passed_so(changed: dict[str, Any]) -> None:
    found = facts()
    found["model_repository"]["models"] = {
        "phi2": {"versions": ["1"], "listing": {}, "texts": {"config.pbtxt": VLLM_CONFIG, **VLLM_FILES}}
    }
    found["triton"]["configs"] = {}
    made = engine(found, **changed)
    entries = [entry for model in made.models for entry in model.entries if entry.target.startswith("--")]
    assert entries
    assert all(made.flags[entry.target.removeprefix("--")] == entry.result for entry in entries)
    lost = {entry.source: entry.reason for model in made.models for entry in model.entries if entry.outcome == "lossy"}
    assert "free beside Triton" in lost["1/model.json:gpu_memory_utilization"]
    assert lost["1/model.json:enable_lora"] == "no adapter is staged"
    assert not [name for name in made.flags if "lora" in name]
    assert "multi_lora.json" in {finding.name for finding in made.findings}


def test_a_value_that_is_no_list_of_words_is_passed_as_json() -> None:
    found = facts()
    arguments = {"model": "/m", "compilation_config": {"level": 3}, "cudagraph_capture_sizes": [1, 2]}
    files = VLLM_FILES | {"1/model.json": json.dumps(arguments)}
    found["model_repository"]["models"] = {
        "phi2": {"versions": ["1"], "listing": {}, "texts": {"config.pbtxt": VLLM_CONFIG, **files}}
    }
    found["triton"]["configs"] = {}
    made = engine(found)
    assert json.loads(made.flags["compilation-config"]) == {"level": 3}
    assert made.flags["cudagraph-capture-sizes"] == [1, 2]


def test_a_metric_of_a_dashboard_that_is_gone_is_pointed_out() -> None:
    named = {finding.name for finding in engine(migrate_metrics_used=["vllm:gpu_cache_usage_perc"]).findings}
    assert "vllm:gpu_cache_usage_perc" in named


def test_what_is_no_language_model_stays_and_does_not_hold_the_others_back() -> None:
    stays = {model.model: model.why_not for model in engine().models if not model.moves}
    assert "onnxruntime" in stays["ranker"]


def test_a_model_that_cannot_move_is_refused_by_name() -> None:
    found = facts()
    found["triton"]["models"].append({"name": "ranker", "version": "1", "state": "READY"})
    with pytest.raises(Refused, match="triton_models: ranker cannot move: .*onnxruntime"):
        engine(found, triton_models={"phi2": {"style": "python"}, "ranker": {"style": "python"}})


def test_models_that_contradict_each_other_are_refused() -> None:
    found = facts()
    found["triton"]["configs"]["other"] = found["triton"]["configs"]["phi2"] | {
        "name": "other",
        "instance_group": [{"count": 1, "kind": "KIND_GPU", "gpus": [1]}],
    }
    found["gpus"] = [{"compute_capability": "9.0"}] * 2
    with pytest.raises(Refused, match="phi2 and other|other and phi2"):
        engine(found, triton_models={"phi2": {"style": "python"}, "other": {"style": "python"}})


@pytest.mark.parametrize(
    ("changed", "message", "replacement"),
    [
        ({"vllm_args": {"chunked-prefill-size": 512}}, "vllm_args: chunked-prefill-size", "max-num-batched-tokens"),
        ({"vllm_args": {"swap-space": 4}}, "vllm_args: swap-space", "0.18"),
        ({"vllm_args": {"max_model_length": 4}}, "vllm_args: max-model-length", "max-model-len"),
        ({"vllm_environment": {"VLLM_ATTENTION_BACKEND": "FLASH_ATTN"}}, "vllm_environment", "attention-backend"),
    ],
)
def test_a_setting_that_the_release_does_not_have_is_refused_with_its_replacement(
    changed: dict[str, Any], message: str, replacement: str
) -> None:
    with pytest.raises(SettingsError) as wrong:
        engine(**changed)
    assert message in str(wrong.value)
    assert replacement in f"{wrong.value} {wrong.value.advice}"


def test_an_image_that_fails_with_the_driver_is_refused() -> None:
    with pytest.raises(SettingsError, match="vllm_image: Error 803"):
        engine(facts() | {"driver": {"version": "580.95.05"}}, vllm_image="vllm/vllm-openai:v0.16.0")


def test_a_release_without_phi_s_own_class_is_pointed_out() -> None:
    named = {finding.name for finding in engine(vllm_image="vllm/vllm-openai:v0.32.0").findings}
    assert "PhiForCausalLM" in named
    assert "PhiForCausalLM" not in {finding.name for finding in engine().findings}


def test_several_language_models_take_an_engine_each_that_divide_the_card() -> None:
    found = facts()
    found["triton"]["configs"]["second"] = found["triton"]["configs"]["phi2"] | {"name": "second"}
    chosen = settings()
    engines_needed = engines.possible(chosen, engines.engine(chosen, found).models)
    assert [(one["models"], one["planned"]) for one in engines_needed] == [(["phi2"], True), (["second"], False)]
    assert sum(one["share"] for one in engines_needed) <= 0.92
    assert engines.possible(chosen, engine().models) == ()


def test_a_malformed_configuration_is_refused_with_its_place() -> None:
    found = facts()
    found["triton"]["configs"] = {}
    found["model_repository"]["models"] = {
        "phi2": {"versions": ["1"], "listing": {}, "texts": {"config.pbtxt": 'name: "phi2"\nbackend: "python'}}
    }
    with pytest.raises(Refused, match="phi2/config.pbtxt:2:"):
        engine(found)


def test_a_translation_is_json() -> None:
    text = json.dumps([engines.as_json(model) for model in engine().models])
    assert json.loads(text)[0]["entries"][0]["source"]
