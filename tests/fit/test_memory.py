from dataclasses import replace

import pytest

from migrate import fit
from migrate.errors import UsageError
from migrate.fit import Batch, Setting, strategy
from migrate.fit.reserve import defaults, reserve
from migrate.fit.units import GIB, parse_memory

from .cases import model

VRAM = 32 * GIB


def test_the_parts_add_up_to_the_card() -> None:
    found = fit.fit(model("qwen2.5-7b"), VRAM)
    assert found.weights_each + found.reserve + found.room == found.share < VRAM
    assert found.tokens * found.kv_each <= found.room < (found.tokens + 16) * found.kv_each
    assert found.fits and not found.tight and found.sequences > 7


def test_the_reserve_is_what_vllm_logged_for_qwen3_8b_on_24_gb() -> None:
    measured = 0.9764 * 23.53 - 6.37 - 15.27
    assert reserve(model("qwen3-8b").config, 24 * GIB, Batch()) / GIB == pytest.approx(measured, abs=0.1)


def test_the_defaults_follow_the_card() -> None:
    assert defaults(24 * GIB, Batch()) == Batch(256, 2048)
    assert defaults(80 * GIB, Batch()) == Batch(1024, 8192)
    assert defaults(80 * GIB, Batch(8, 4096)) == Batch(8, 4096)


def test_a_smaller_batch_needs_less() -> None:
    config = model("qwen2.5-7b").config
    assert reserve(config, VRAM, Batch(8, 512)) < reserve(config, VRAM, Batch()) < reserve(config, 80 * GIB, Batch())


def test_nothing_fits_below_the_weights() -> None:
    found = fit.fit(model("qwen2.5-14b"), 24 * GIB)
    assert not found.fits and found.room < 0 and found.tokens == found.largest_context == 0
    assert len(found.reasons) == 1 and "weights 27.51 GiB" in found.reasons[0]


def test_a_longer_context_than_the_models_own_does_not_fit() -> None:
    found = fit.fit(model("phi-3-mini-4k"), VRAM, Setting(context=16_384))
    assert found.reasons == ("the model's own context is 4,096 tokens, 16,384 are asked for",)
    assert found.tokens > 16_384


def test_the_limit_is_exact() -> None:
    small = fit.fit(model("qwen2.5-14b"), VRAM, Setting(context=16))
    last = small.tokens
    assert fit.fit(model("qwen2.5-14b"), VRAM, Setting(context=last)).fits
    assert not fit.fit(model("qwen2.5-14b"), VRAM, Setting(context=last + 1)).fits
    assert fit.fit(model("qwen2.5-14b"), VRAM, Setting(context=last)).tight


def test_two_cards_halve_the_weights() -> None:
    one, two = (fit.fit(model("llama-3.1-70b-awq"), VRAM, Setting(8192, tensor_parallel=n)) for n in (1, 2))
    assert not one.fits and two.fits and two.weights_each * 2 == one.weights_each
    assert fit.cards_needed(model("llama-3.1-70b-awq"), VRAM, Setting(8192)) == 2


def test_cards_that_do_not_divide_the_model_are_not_offered() -> None:
    assert fit.cards_needed(model("deepseek-v2-lite"), 2 * GIB, Setting(1024)) is None
    with pytest.raises(UsageError, match="28 attention heads"):
        fit.fit(model("qwen2.5-7b"), VRAM, Setting(tensor_parallel=8))


@pytest.mark.parametrize("setting", [Setting(utilization=0), Setting(utilization=1.1), Setting(context=-1)])
def test_nonsense_settings_are_usage_errors(setting: Setting) -> None:
    with pytest.raises(UsageError):
        fit.fit(model("phi-2"), VRAM, setting)


def test_every_change_that_is_offered_fits_and_the_first_is_the_nearest() -> None:
    changes = fit.nearest(model("qwen2.5-14b"), VRAM, Setting(32_768))
    assert [change.what.split()[0] for change in changes] == ["FP8", "a", "--tensor-parallel-size", "--max-model-len"]
    assert all(change.result.fits for change in changes)
    assert fit.nearest(model("qwen2.5-7b"), VRAM, Setting(32_768)) == ()


def test_an_8_bit_cache_is_offered_only_where_the_card_has_it() -> None:
    setting = Setting(32_768)
    room = fit.fit(model("llama-3.1-70b-awq"), 64 * GIB, replace(setting, context=131_072))
    assert not room.fits
    offered = fit.nearest(model("llama-3.1-70b-awq"), 64 * GIB, replace(setting, context=131_072))
    assert offered[0].what == "--kv-cache-dtype fp8"
    ampere = fit.nearest(
        model("llama-3.1-70b-awq"), 64 * GIB, replace(setting, context=131_072), fit.cards.get("a100-80gb")
    )
    assert all("fp8" not in change.what for change in ampere)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("32GiB", 32 * GIB), ("80 GB", 80 * 10**9), ("24564MiB", 24_564 << 20), ("1.5GiB", 3 * GIB // 2)],
)
def test_amounts_of_memory(text: str, expected: int) -> None:
    assert parse_memory(text) == expected


@pytest.mark.parametrize(
    "text", ["", "32", "lots", "-32GiB", "0GiB", "32 parsecs", "1e9GiB", "999999TiB", "NaN", "32GiB; rm"]
)
def test_nonsense_amounts_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError):
        parse_memory(text)


def test_side_by_side_where_both_fit() -> None:
    found = strategy(free=60 * GIB, total=80 * GIB, triton_used=18 * GIB, need=30 * GIB)
    assert (found.name, found.gap_there_s) == ("side-by-side", 0)
    assert 30 <= found.utilization * 79.5 <= 60


def test_swap_says_how_long_nobody_answers() -> None:
    found = strategy(free=4 * GIB, total=32 * GIB, triton_used=27 * GIB, need=20 * GIB, weights=15 * 10**9)
    assert found.name == "swap" and "27.00 GiB" in found.reason
    assert found.gap_there_s > found.gap_back_s > 30


def test_refused_where_even_the_empty_card_is_too_small() -> None:
    found = strategy(free=4 * GIB, total=24 * GIB, triton_used=19 * GIB, need=30 * GIB)
    assert found.name == "refuse" and "30.00 GiB" in found.reason
    assert strategy(free=0, total=0, triton_used=0, need=GIB).name == "refuse"
