"""Several models: what moves beside what stays, and how many vLLM servers that takes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from migrate.errors import Refused
from migrate.translate import Source, Translation, group, sources, translate_all

TEXT = """
input [ { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "text_output" data_type: TYPE_STRING dims: [ -1 ] } ]
"""
PYTHON = 'backend: "python" max_batch_size: 4 parameters { key: "weights" value { string_value: "%s" } }' + TEXT
LLAMA = Translation("llama", True, "", "vllm", "vllm", "/w/llama", ("llama",), {}, {}, {}, (), (), 16 * 10**9)
PHI = dataclasses.replace(LLAMA, model="phi", weights="/w/phi", served_names=("phi",), weights_bytes=4 * 10**9)


def vllm(name: str, arguments: str) -> Source:
    return Source(name, 'backend: "vllm"', files={"1/model.json": arguments})


def asks(translation: Translation, **flags: Any) -> Translation:
    return dataclasses.replace(translation, flags={key.replace("_", "-"): value for key, value in flags.items()})


def on(translation: Translation, cards: str) -> Translation:
    return dataclasses.replace(translation, environment={"CUDA_VISIBLE_DEVICES": cards})


def shares(*translations: Translation) -> list[float]:
    return [engine.flags["gpu-memory-utilization"] for engine in group(translations)]


def test_the_language_model_moves_and_its_neighbour_stays() -> None:
    onnx = Source("rerank", 'backend: "onnxruntime"', listing={"1/model.onnx": 9})
    llm, other = translate_all([vllm("llm", '{"model": "m"}'), onnx])
    assert (llm.moves, other.moves) == (True, False)
    assert [engine.models for engine in group([llm, other])] == [("llm",)]


def test_models_on_the_same_weights_share_an_engine() -> None:
    listing = {"1/model.py": 1, "1/weights/config.json": 1}
    phi = Source("phi2", PYTHON % "weights", listing=listing)
    stream = Source("phi2_stream", PYTHON % "../../phi2/1/weights", listing={"1/model.py": 1})
    translations = translate_all([phi, stream])
    assert [translation.weights for translation in translations] == ["phi2/1/weights"] * 2
    (engine,) = group(translations)
    assert engine.models == engine.served_names == ("phi2", "phi2_stream")
    assert engine.flags["max-num-seqs"] == 8
    assert engine.flags["gpu-memory-utilization"] == 0.92


def test_the_same_weights_with_contradicting_settings_are_two_engines() -> None:
    short = asks(LLAMA, max_model_len=512)
    long = dataclasses.replace(asks(LLAMA, max_model_len=4096), model="long", served_names=("long",))
    assert [engine.name for engine in group([short, long])] == ["llama", "long"]


def test_weights_that_are_not_known_are_never_taken_for_the_same() -> None:
    one = dataclasses.replace(LLAMA, weights="")
    other = dataclasses.replace(one, model="other", served_names=("other",))
    assert len(group([one, other])) == 2


def test_a_card_is_divided_by_the_bytes_of_the_weights() -> None:
    assert shares(LLAMA, PHI) == [0.73, 0.18]


def test_a_card_is_divided_evenly_where_a_size_is_not_known() -> None:
    assert shares(LLAMA, dataclasses.replace(PHI, weights_bytes=None)) == [0.46, 0.46]


def test_engines_on_cards_of_their_own_have_them_whole() -> None:
    assert shares(on(LLAMA, "0"), on(PHI, "1")) == [0.92, 0.92]
    assert shares(on(LLAMA, "0"), on(PHI, "0,1")) == [0.73, 0.18]


def test_what_model_json_claims_is_kept_and_the_rest_divided() -> None:
    assert shares(asks(LLAMA, gpu_memory_utilization=0.5), PHI) == [0.5, 0.42]


def test_claims_beyond_the_card_are_lowered_and_said() -> None:
    engines = group([asks(LLAMA, gpu_memory_utilization=0.9), asks(PHI, gpu_memory_utilization=0.9)])
    assert [engine.flags["gpu-memory-utilization"] for engine in engines] == [0.46, 0.46]
    assert all("lowered" in engine.notes[0] for engine in engines)


def test_a_claim_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(Refused, match="already claim 0.95"):
        group([asks(LLAMA, gpu_memory_utilization=0.95), PHI])


def test_a_name_served_twice_is_refused() -> None:
    with pytest.raises(Refused, match="both want to be served as 'llama'"):
        group([LLAMA, dataclasses.replace(PHI, served_names=("phi", "llama"))])


def test_an_adapter_with_a_served_name_is_refused_in_one_engine_too() -> None:
    with pytest.raises(Refused, match="'llama' is a name of llama and of one of its adapters"):
        group([dataclasses.replace(LLAMA, lora_modules={"llama": "/a"})])


def test_parts_of_an_ensemble_say_what_becomes_of_them() -> None:
    steps = 'platform: "ensemble" ensemble_scheduling { step [ %s ] }' + TEXT
    chain = Source("chain", steps % '{ model_name: "engine" }', versions=("1",))
    custom = Source("custom", steps % '{ model_name: "gpt2" }', versions=("1",))
    engine = Source("engine", 'backend: "tensorrtllm"', versions=("1",))
    translated = translate_all([chain, engine, custom, vllm("gpt2", '{"model": "gpt2"}')])
    by_name = {translation.model: translation for translation in translated}
    assert [name for name, translation in by_name.items() if translation.moves] == ["chain", "gpt2"]
    assert "a part of chain, which moves as a whole" in by_name["engine"].notes
    assert "the ensemble custom stays on Triton and goes on needing this model there" in by_name["gpt2"].notes


def test_sources_come_from_the_facts_of_a_host() -> None:
    facts = {
        "gpus": [{"index": 0}, {"index": 1}],
        "model_repository": {
            "models": {
                "a": {
                    "versions": ["1"],
                    "listing": {"1/model.json": 14},
                    "texts": {"config.pbtxt": 'backend: "vllm"', "1/model.json": '{"model": "m"}'},
                },
                "empty": {"versions": [], "listing": {"config.pbtxt": 3}, "texts": {"config.pbtxt": ""}},
            }
        },
        "triton": {"configs": {"a": {"name": "a", "backend": "vllm"}, "b": {"name": "b", "backend": "identity"}}},
        "weights": {"texts": {"config.json": "{}"}, "safetensors": {"files": 1, "bytes": 2, "parameters": {}}},
    }
    a, b, empty = sources(facts, moving=["a"])
    assert (a.name, a.config, a.gpus, a.weights, a.versions) == (
        "a",
        {"name": "a", "backend": "vllm"},
        2,
        {"config.json": "{}"},
        ("1",),
    )
    assert (b.weights, b.headers) == ({}, None)
    assert [translation.moves for translation in translate_all([a, b])] == [True, False]
    with pytest.raises(Refused, match="empty: the model's directory has no version"):
        translate_all([empty])
