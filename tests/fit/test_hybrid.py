"""Layers that keep a state instead of a cache, stages of a pipeline, weights that vLLM quantises by itself."""

from typing import Any

import pytest

from migrate import fit
from migrate.errors import Refused, UsageError
from migrate.fit import Expectations, Headers, Setting, config, kv, view
from migrate.fit.units import GIB

from .cases import SMALL, model

EACH = 2 * 2 * 16 * 2
"""Bytes of KV cache for each token and layer of SMALL: keys and values of 2 heads, 16 wide, 2 bytes."""


@pytest.mark.parametrize(
    ("changed", "attention"),
    [
        ({"layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"] * 2}, 2),
        ({"layer_types": ["conv", "full_attention"] * 4}, 4),
        ({"layer_types": ["mamba"] * 7 + ["attention"]}, 1),
        ({"full_attention_interval": 4}, 2),
        ({"full_attn_idxs": [2, 5]}, 2),
        ({"attn_layer_indices": [3]}, 1),
        ({"attn_layer_period": 4, "attn_layer_offset": 3}, 2),
        ({"hybrid_override_pattern": "M-M*-M-*"}, 2),
        ({"block_types": ["recurrent", "recurrent", "attention"]}, 2),
        ({"layers_block_type": ["mamba", "hybrid"] * 4}, 4),
        ({"linear_attn_config": {"full_attn_layers": [4, 8]}}, 2),
        ({}, 8),
    ],
)
def test_only_attention_layers_have_a_cache(changed: dict[str, Any], attention: int) -> None:
    found = kv.measure(config.read(SMALL | {"num_hidden_layers": 8} | changed))
    assert (found.per_token, found.layers, found.stateful) == (attention * EACH, attention, 8 - attention)


def test_windows_are_counted_among_the_attention_layers() -> None:
    kinds = ["conv", "sliding_attention", "conv", "full_attention"]
    found = kv.measure(config.read(SMALL | {"num_hidden_layers": 4, "layer_types": kinds, "sliding_window": 64}))
    assert (found.layers, found.windowed) == (2, 1)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"layer_types": ["mamba"] * 2}, "no attention layer"),
        ({"layer_types": [["mamba"], 1]}, "layer_types"),
        ({"full_attention_interval": 0}, "full_attention_interval"),
        ({"architectures": ["MambaForCausalLM"], "num_attention_heads": None}, "num_attention_heads"),
    ],
)
def test_a_model_without_attention_is_refused_by_name(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(Refused, match=named):
        kv.measure(config.read(SMALL | changed))


def test_the_page_of_a_hybrid_says_what_is_not_counted() -> None:
    values = SMALL | {"architectures": ["Qwen3NextForCausalLM"], "full_attention_interval": 2}
    hybrid = fit.of(values, Headers(1, 2_000, {"BF16": 1_000}))
    text = view.as_text(hybrid, fit.fit(hybrid, 8 * GIB), (), None, None)
    assert "1 of 2 layers have no cache" in text


def test_stages_of_a_pipeline_divide_layers_but_no_heads() -> None:
    one, two, three = (fit.fit(model("qwen2.5-7b"), 32 * GIB, Setting(pipeline_parallel=n)) for n in (1, 2, 3))
    assert two.weights_each == one.weights_each // 2 and two.kv_each == one.kv_each // 2
    assert three.kv_each == one.kv_each // 28 * 10, "the largest of three stages has 10 of 28 layers"
    assert three.weights_each == -(-one.weights_each * 10 // 28)
    both = fit.fit(model("qwen2.5-7b"), 32 * GIB, Setting(tensor_parallel=2, pipeline_parallel=2))
    assert both.weights_each == one.weights_each // 4 and both.kv_each == one.kv_each // 4
    assert "4 x " in view.as_text(model("qwen2.5-7b"), both, (), None, None)


def test_one_stream_is_in_one_stage_at_a_time() -> None:
    card, stages = fit.cards.get("h200"), Setting(1024, pipeline_parallel=2)
    for streams, faster in ((1, 1), (2, 2)):
        promise = Expectations(tokens_per_s=1, streams=streams, context=1024)
        one, two = (fit.judge(model("qwen2.5-7b"), card, setting, promise)[0] for setting in (Setting(1024), stages))
        assert (two.bound or 0) / (one.bound or 1) == pytest.approx(faster)


@pytest.mark.parametrize("stages", [0, -1, 29])
def test_a_pipeline_has_no_more_stages_than_layers(stages: int) -> None:
    with pytest.raises(UsageError, match="28 layers"):
        fit.fit(model("qwen2.5-7b"), 32 * GIB, Setting(pipeline_parallel=stages))


def test_what_is_offered_instead_of_a_pipeline_says_so() -> None:
    setting = Setting(8192, pipeline_parallel=2)
    assert fit.fit(model("llama-3.1-70b-awq"), 32 * GIB, setting).fits
    changes = fit.nearest(model("llama-3.1-70b-awq"), 20 * GIB, setting)
    assert "--tensor-parallel-size 4 --pipeline-parallel-size 1 (4 such cards)" in [change.what for change in changes]


def test_16_bit_weights_may_be_quantised_while_they_are_loaded() -> None:
    plain = model("qwen2.5-14b")
    smaller = fit.quantised(plain, "fp8")
    assert smaller.weights.scheme == "FP8"
    assert smaller.weights.bytes < 0.6 * plain.weights.bytes
    assert fit.quantised(plain, "bitsandbytes").weights.bytes < smaller.weights.bytes


@pytest.mark.parametrize("name", ["", "awq", "awq_marlin", "fp8", "compressed-tensors", "unheard-of"])
def test_what_the_checkpoint_already_is_changes_nothing(name: str) -> None:
    packed = model("llama-3.1-70b-awq")
    assert fit.quantised(packed, name) is packed


@pytest.mark.parametrize("name", ["awq", "gptq", "none", ""])
def test_a_scheme_that_only_checkpoints_have_changes_no_16_bit_weights(name: str) -> None:
    plain = model("qwen2.5-14b")
    assert fit.quantised(plain, name) is plain


def test_weights_that_cannot_be_counted_stay_as_they_are_stored() -> None:
    strange = fit.of(SMALL | {"architectures": ["StrangeForCausalLM"]}, Headers(1, 2_000, {"BF16": 1_000}))
    assert fit.quantised(strange, "fp8").weights.bytes == 2_000


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "BertModel", "RobertaForMaskedLM"])
def test_what_generates_no_text_is_refused_by_name(name: str) -> None:
    with pytest.raises(Refused, match=f"{name} generates no text"):
        config.read(SMALL | {"architectures": [name]})


@pytest.mark.parametrize("name", ["\x1b[31mLlama", "Llama\n{{ x }}", "[red]", ""])
def test_an_architecture_is_the_name_of_a_class(name: str) -> None:
    with pytest.raises(Refused, match="architectures") as error:
        config.read(SMALL | {"architectures": [name]})
    assert str(error.value).isprintable()


@pytest.mark.parametrize("settings", [[], ["fp8"], "fp8", 8, False])
@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_a_quantization_that_is_no_mapping_is_refused(key: str, settings: Any) -> None:
    with pytest.raises(Refused, match=f"{key} is no object"):
        config.read(SMALL | {key: settings})


def test_the_published_gemma_3_relies_on_its_class() -> None:
    published = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "torch_dtype": "bfloat16",
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
    }
    read = config.read(published)
    assert (read.heads, read.kv_heads, read.head_dim, read.vocabulary, read.context) == (8, 4, 256, 262_208, 131_072)
    found = kv.measure(read)
    assert (found.per_token, found.windowed) == (2 * 34 * 4 * 256 * 2, 29)


def test_a_key_that_is_missing_is_named_with_what_to_do() -> None:
    with pytest.raises(Refused, match="num_attention_heads") as error:
        _ = config.read({key: value for key, value in SMALL.items() if key != "num_attention_heads"}).heads
    assert "default of its class" in error.value.advice


def test_a_method_that_only_the_algorithm_names() -> None:
    settings = {"quant_algo": "AWQ", "bits": 4}
    assert fit.of(SMALL | {"quantization_config": settings}).weights.scheme == "AWQ 4-bit"
