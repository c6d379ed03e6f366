from typing import Any

import pytest

from migrate import fit
from migrate.errors import Refused, UsageError
from migrate.fit import Headers, config, kv, parameters, weights
from migrate.fit.units import GIB

from .cases import NAMES, SMALL, case, model


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_are_those_that_the_repository_states(name: str) -> None:
    assert parameters.count(model(name).config).total == case(name)["parameters"]


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("phi-3-mini-4k", 8),
        ("qwen2.5-7b", 15),
        ("llama-3-8b", 16),
        ("qwen2.5-14b", 28),
        ("qwen2.5-32b-awq", 20),
        ("llama-3.1-70b-awq", 40),
    ],
)
def test_the_weights_are_within_ten_percent(name: str, gigabytes: float) -> None:
    assert fit.weights_bytes(case(name)["config"]) / 1e9 == pytest.approx(gigabytes, rel=0.10)


def test_phi_2_is_as_measured_on_an_h200() -> None:
    assert fit.kv_bytes_per_token(case("phi-2")["config"]) == 327_680
    assert fit.weights_bytes(case("phi-2")["config"]) == pytest.approx(5.19 * GIB, rel=0.02)


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("qwen2.5-7b", "auto", 2 * 28 * 4 * 128 * 2),
        ("qwen2.5-7b", "fp8", 2 * 28 * 4 * 128),
        ("gemma-2-9b", "auto", 2 * 42 * 8 * 256 * 2),
        ("deepseek-v2-lite", "auto", 27 * (512 + 64) * 2),
    ],
)
def test_kv_cache_of_a_token(name: str, dtype: str, expected: int) -> None:
    assert fit.kv_bytes_per_token(case(name)["config"], dtype) == expected


def test_an_unknown_kv_dtype_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="fp7"):
        fit.kv_bytes_per_token(case("phi-2")["config"], "fp7")


def test_kv_heads_divide_over_gpus_and_are_copied_below_one() -> None:
    cache = kv.measure(model("qwen2.5-7b").config)
    assert [cache.on_each(gpus) for gpus in (1, 2, 4, 7)] == [57_344, 28_672, 14_336, 14_336]
    latent = kv.measure(model("deepseek-v2-lite").config)
    assert latent.on_each(8) == latent.per_token


def test_a_token_reads_no_further_back_than_the_window() -> None:
    mistral = kv.measure(model("mistral-7b-v0.1").config)
    assert mistral.read(32_768) == mistral.read(4_096) == 4_096 * mistral.per_token
    gemma = kv.measure(model("gemma-2-9b").config)
    assert (gemma.window, gemma.windowed) == (4_096, 21)
    assert gemma.read(8_192) == gemma.per_token // 42 * (21 * 8_192 + 21 * 4_096)
    assert kv.measure(model("qwen2.5-7b").config).windowed == 0


def test_only_the_experts_in_use_are_read() -> None:
    found = weights.measure(model("mixtral-8x7b").config)
    assert found.read == pytest.approx(12.9e9 * 2, rel=0.02)


def test_a_tied_embedding_is_read_an_untied_one_is_not() -> None:
    tied = weights.measure(config.read(SMALL | {"tie_word_embeddings": True}))
    untied = weights.measure(config.read(SMALL))
    assert tied.read == tied.bytes == untied.read
    assert untied.bytes == tied.bytes + 256 * 64 * 2


@pytest.mark.parametrize(
    ("settings", "each"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 0.5 + 2.5 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 1.0),
        ({"quant_method": "fp8"}, 1.0),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 0.5 + 1 / 16),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 1.0),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4}}}}, 0.5),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 0.5625),
    ],
)
def test_quantised_weights(settings: dict[str, Any], each: float) -> None:
    plain = parameters.count(model("llama-3-8b").config)
    expected = plain.linear * each + (plain.embedding + plain.head + plain.other) * 2
    quantised = case("llama-3-8b")["config"] | {"quantization_config": settings}
    assert fit.weights_bytes(quantised) == pytest.approx(expected, rel=0.001)


def test_the_head_stays_as_it_is() -> None:
    assert parameters.count(model("llama-3-8b").config).head == 128_256 * 4_096


def test_an_unknown_quantisation_is_refused_by_name() -> None:
    with pytest.raises(Refused, match="'aqlm'"):
        fit.weights_bytes(SMALL | {"quantization_config": {"quant_method": "aqlm"}})


def test_an_unknown_quantisation_with_weights_is_measured() -> None:
    found = weights.measure(
        config.read(SMALL | {"quantization_config": {"quant_method": "aqlm"}}), Headers(1, 2_000, {"I16": 1_000})
    )
    assert (found.bytes, found.read, found.scheme) == (2_000, None, "unknown")


def test_an_unknown_architecture_needs_its_weights() -> None:
    strange = SMALL | {"architectures": ["StrangeForCausalLM"]}
    with pytest.raises(Refused, match="StrangeForCausalLM"):
        fit.weights_bytes(strange)
    found = weights.measure(config.read(strange), Headers(1, 2_000, {"BF16": 1_000}))
    assert (found.bytes, found.read) == (2_000, None)


def test_a_float32_checkpoint_is_served_in_16_bits() -> None:
    plain = parameters.count(config.read(SMALL)).total
    headers = Headers(1, 4 * plain, {"F32": plain})
    assert fit.weights_bytes(SMALL | {"torch_dtype": "float32"}, headers) == 2 * plain


def test_a_tied_head_that_is_stored_too_is_no_contradiction() -> None:
    tied = SMALL | {"tie_word_embeddings": True}
    stored = parameters.count(config.read(tied)).total + 256 * 64
    assert fit.weights_bytes(tied, Headers(1, 2 * stored, {"BF16": stored})) == 2 * stored


def test_weights_that_contradict_the_configuration_are_refused_with_both_numbers() -> None:
    with pytest.raises(Refused, match=r"8,030,261,248 parameters .* 3,000,000,000 elements"):
        fit.weights_bytes(case("llama-3-8b")["config"], Headers(1, 6_000_000_000, {"BF16": 3_000_000_000}))


def test_another_vocabulary_than_the_embedding_is_refused() -> None:
    headers = Headers(1, 10, {"BF16": 5}, {"model.embed_tokens.weight": (128, 64)})
    with pytest.raises(Refused, match="256 x 64, model.embed_tokens.weight is 128 x 64"):
        fit.weights_bytes(SMALL, headers)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"hidden_size": "64"}, "hidden_size"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"num_hidden_layers": 1_000_000}, "1,000,000 layers"),
        ({"vocab_size": 2**40}, "vocab_size"),
        ({"intermediate_size": None}, "intermediate_size"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"torch_dtype": "int3"}, "int3"),
        ({"architectures": []}, "architectures"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 5}}, "5 bits"),
    ],
)
def test_nonsense_in_config_json_is_refused_by_key(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(Refused, match=named):
        fit.weights_bytes(SMALL | changed)


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        (None, 512),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}, 1024),
        ({"rope_type": "linear", "factor": 2}, 1024),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 128}, 512),
        ({"type": "longrope", "short_factor": [1.0]}, 512),
    ],
)
def test_the_context_follows_rotary_scaling_as_vllm_does(scaling: dict[str, Any] | None, expected: int) -> None:
    assert config.read(SMALL | {"rope_scaling": scaling}).context == expected


def test_nonsense_in_rotary_scaling_is_refused() -> None:
    with pytest.raises(Refused, match="factor"):
        _ = config.read(SMALL | {"rope_scaling": {"type": "linear", "factor": "2"}}).context
