"""Whether vLLM fits beside Triton on the host's card, and which promises are possible there."""

from typing import Any

import pytest

from migrate import plan as planning
from migrate import planner, sizing
from migrate import settings as settings_module
from migrate.errors import Refused, SettingsError
from migrate.settings import Settings

from .fakes import VARIABLES, facts, gpu_facts
from .test_plan import NOW

GIB = 1 << 30


def settings(**changed: Any) -> Settings:
    """The settings of a host with a card."""
    return settings_module.load(VARIABLES | {"vllm_gpus": "all"} | changed)


def test_a_large_card_holds_both_and_vllm_leaves_triton_its_memory() -> None:
    found = gpu_facts()
    sized = sizing.size(settings(), found)
    card = found["gpus"][0]
    assert sized.strategy == "side-by-side"
    assert sized.utilization * card["memory_total"] <= card["memory_free"]
    assert sized.memory is not None
    assert sized.memory["bytes"]["kv_per_token"] == 327_680


def test_a_card_that_holds_only_one_needs_a_swap_with_its_gaps() -> None:
    sized = sizing.size(settings(), gpu_facts("NVIDIA GeForce RTX 5060 Ti", 16311, 10240))
    assert sized.strategy == "swap"
    assert sized.gap_there_s > sized.gap_back_s > 0


def test_a_swap_is_planned_and_never_applied() -> None:
    swap = gpu_facts("NVIDIA GeForce RTX 5060 Ti", 16311, 10240)
    made = planner.make("gpu01", settings(), swap, "t", NOW)
    with pytest.raises(Refused, match="strategy swap"):
        planning.refuse_swap(made)
    planning.refuse_swap(planner.make("gpu01", settings(), gpu_facts(), "t", NOW))


def test_a_card_that_holds_not_even_one_is_refused_with_what_would_fit() -> None:
    with pytest.raises(Refused, match="does not fit") as refused:
        sizing.size(settings(), gpu_facts("NVIDIA GeForce RTX 3050", 6144, 1024))
    assert refused.value.advice


def test_more_cards_than_the_host_has_are_refused() -> None:
    with pytest.raises(Refused, match="2 GPUs are asked for, the host has 1"):
        sizing.size(settings(vllm_args={"tensor-parallel-size": 2}), gpu_facts())


def test_a_share_that_is_not_free_is_refused_with_one_that_is() -> None:
    with pytest.raises(Refused, match="more than is free") as refused:
        sizing.size(settings(vllm_args={"gpu-memory-utilization": 0.97}), gpu_facts())
    assert "set it to 0.9" in refused.value.advice


def test_a_context_beyond_the_model_s_own_is_refused() -> None:
    with pytest.raises(Refused, match="own context is 2,048") as refused:
        sizing.size(settings(vllm_args={"max-model-len": 16384}), gpu_facts())
    assert "--max-model-len 2048" in refused.value.advice


def test_a_host_that_is_to_have_no_card_claims_nothing_of_memory() -> None:
    sized = sizing.size(settings(vllm_gpus="none"), facts())
    assert (sized.memory, sized.utilization) == (None, 0.0)
    assert "vllm_gpus is none" in sized.reason


def test_a_host_whose_cards_cannot_be_seen_is_refused_with_the_reason() -> None:
    found = facts() | {"driver": {"version": None, "reason": "Driver/library version mismatch"}}
    with pytest.raises(Refused, match="no GPU can be seen: Driver/library version mismatch"):
        sizing.size(settings(), found)


@pytest.mark.parametrize(("value", "tokens"), [("1k", 1000), ("1K", 1024), (512, 512), ("auto", 2048), (-1, 2048)])
def test_a_context_is_read_as_vllm_reads_it(value: Any, tokens: int) -> None:
    sized = sizing.size(settings(vllm_args={"max-model-len": value}), gpu_facts())
    assert sized.memory is not None
    assert sized.memory["context"] == tokens


@pytest.mark.parametrize("wrong", [{"max-model-len": "long"}, {"gpu-memory-utilization": "90%"}])
def test_a_value_that_is_no_number_names_the_setting(wrong: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=f"vllm_args: {next(iter(wrong))}"):
        sizing.size(settings(vllm_args=wrong), gpu_facts())


def test_only_the_cards_that_vllm_may_see_count() -> None:
    found = gpu_facts()
    found["gpus"].append(found["gpus"][0] | {"index": 1, "uuid": "GPU-1", "memory_free": 1 * GIB})
    chosen = settings(vllm_environment={"CUDA_VISIBLE_DEVICES": "0"})
    made = planner.make("gpu01", chosen, found, "t", NOW)
    assert made.strategy == "side-by-side"
    assert not planning.drift(made, found)
    found["gpus"][0]["memory_free"] = 1 * GIB
    assert [drift.key for drift in planning.drift(made, found)] == ["gpus.GPU-0"]


def test_a_card_that_our_own_vllm_holds_is_not_taken_for_triton_s() -> None:
    found = gpu_facts()
    found["gpus"][0]["processes"].append({"pid": 8, "name": "VLLM", "memory": 90 * GIB, "container": "vllm-vllm-1"})
    with pytest.raises(Refused, match="earlier run") as refused:
        sizing.size(settings(), found)
    assert "before-deploy" in refused.value.advice


def test_a_card_in_parts_is_refused() -> None:
    found = gpu_facts()
    found["gpus"][0] |= {"memory_free": None, "memory_total": None, "compute_capability": None}
    with pytest.raises(Refused, match="MIG"):
        sizing.size(settings(), found)


def test_the_advice_of_a_refusal_helps() -> None:
    small = gpu_facts("NVIDIA GeForce RTX 3060", 6 * 1024, 256)
    with pytest.raises(Refused, match="does not fit") as refused:
        sizing.size(settings(), small)
    assert "--quantization fp8" in refused.value.advice
    assert sizing.size(settings(vllm_args={"quantization": "fp8"}), small).strategy == "side-by-side"


def test_a_pipeline_divides_the_weights() -> None:
    found = gpu_facts()
    found["gpus"].append(found["gpus"][0] | {"index": 1, "uuid": "GPU-1"})
    one, two = (sizing.size(settings(vllm_args={"pipeline-parallel-size": stages}), found).memory for stages in (1, 2))
    assert one is not None and two is not None
    assert two["bytes"]["weights"] < 0.6 * one["bytes"]["weights"]


def test_larger_batches_take_more_memory() -> None:
    usual, large = (
        sizing.size(settings(vllm_args=args), gpu_facts()).memory
        for args in ({}, {"max-num-batched-tokens": 65536, "max-num-seqs": 1024})
    )
    assert usual is not None and large is not None
    assert large["bytes"]["reserve"] > usual["bytes"]["reserve"]


@pytest.mark.parametrize("count", [0, -1, 1.5, "two"])
def test_a_number_of_cards_that_is_none_names_the_setting(count: Any) -> None:
    with pytest.raises(SettingsError, match="vllm_args: tensor-parallel-size"):
        sizing.size(settings(vllm_args={"tensor-parallel-size": count}), gpu_facts())


def test_promises_are_held_against_the_card() -> None:
    chosen = settings(
        migrate_expectations=[
            {"by": "a table", "tokens_per_s": 5000},
            {"by": "the vendor", "tokens_per_s": 300},
        ]
    )
    found = sizing.judged(chosen, gpu_facts())
    assert [(line["by"], line["verdict"]) for line in found] == [("a table", "impossible"), ("the vendor", "possible")]
    unknown = sizing.judged(chosen, facts())
    assert {line["verdict"] for line in unknown} == {"unknown"}


def test_the_plan_carries_share_memory_and_promises() -> None:
    chosen = settings(migrate_expectations=[{"by": "a table", "tokens_per_s": 5000}])
    made = planner.make("gpu01", chosen, gpu_facts(), "t", NOW)
    assert made.settings["vllm_args"]["gpu-memory-utilization"] == made.memory["setting"]["utilization"]  # type: ignore[index]
    assert made.expectations[0]["verdict"] == "impossible"
    room = next(predicate for predicate in made.read_set if predicate.key == "gpus.GPU-0")
    assert room.changed_by == "deploy"
    assert room.value <= room.seen
    assert not room.holds(room.value - GIB)
