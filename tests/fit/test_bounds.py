import pytest

from migrate import fit
from migrate.errors import UsageError
from migrate.fit import Expectations, Setting, Verdict, cards
from migrate.fit.bounds import tokens_per_s, ttft_s
from migrate.fit.units import GIB

from .cases import model

RTX_5090 = cards.get("rtx-5090")


def test_every_card_is_complete_and_has_a_source() -> None:
    assert len({card.key for card in cards.every()}) == len(cards.every()) >= 35
    for card in cards.every():
        assert card.source and card.memory > 4 * GIB and 300 <= card.bandwidth_gbs <= 8_000 and card.power_w >= 70
        assert bool(card.fp8_tflops) == card.fp8
        assert card.fp8_tflops == 0 or card.fp8_tflops == pytest.approx(2 * card.fp16_tflops, rel=0.02)


def test_the_rtx_5090() -> None:
    assert (RTX_5090.bandwidth_gbs, RTX_5090.capability, RTX_5090.fp8, RTX_5090.fp4) == (1_792, "12.0", True, True)
    assert 31 * GIB < RTX_5090.memory < 32 * GIB
    assert cards.find("NVIDIA GeForce RTX 5090") == RTX_5090


def test_variants_of_one_name_are_told_apart_by_memory() -> None:
    large = cards.find("NVIDIA GeForce RTX 5060 Ti", 16 * GIB)
    small = cards.find("NVIDIA GeForce RTX 5060 Ti", 8 * GIB)
    assert large and small and (large.key, small.key) == ("rtx-5060-ti", "rtx-5060-ti-8gb")
    assert cards.find("NVIDIA Imaginary") is None


@pytest.mark.parametrize("text", ["rtx-5090", "RTX 5090", "NVIDIA GeForce RTX 5090", "geforce rtx_5090"])
def test_a_card_is_found_however_it_is_written(text: str) -> None:
    assert cards.get(text) == RTX_5090


def test_a_card_that_is_unknown_names_those_near() -> None:
    with pytest.raises(UsageError) as refused:
        cards.get("rtx-5091")
    assert "rtx-5090" in refused.value.advice


def test_the_bound_is_bandwidth_over_bytes() -> None:
    assert fit.bound(5.56e9, 4.8e12) == pytest.approx(863, abs=1)


def test_phi_2_on_an_h200_stayed_below_its_bound() -> None:
    most = tokens_per_s(model("phi-2"), cards.get("h200"), Setting(), Expectations())
    assert most == pytest.approx(906, abs=1) and 360 < most


def test_a_cache_and_more_streams_change_the_bound() -> None:
    llama = model("llama-3-8b")
    empty = tokens_per_s(llama, RTX_5090, Setting(), Expectations())
    full = tokens_per_s(llama, RTX_5090, Setting(), Expectations(context=8_192))
    eight = tokens_per_s(llama, RTX_5090, Setting(), Expectations(context=8_192, streams=8))
    two_cards = tokens_per_s(llama, RTX_5090, Setting(tensor_parallel=2), Expectations())
    assert empty and full and eight and two_cards
    assert empty == pytest.approx(1_792e9 / (8_030_261_248 * 2 - 128_256 * 4_096 * 2))
    assert full < empty < eight < 8 * full
    assert two_cards == pytest.approx(2 * empty)


@pytest.mark.parametrize(("promised", "verdict"), [(119, Verdict.POSSIBLE), (120, Verdict.IMPOSSIBLE)])
def test_a_promise_of_speed(promised: float, verdict: Verdict) -> None:
    (found,) = fit.judge(model("llama-3-8b"), RTX_5090, Setting(), Expectations(tokens_per_s=promised))
    assert (found.promise, found.verdict) == ("tok/s", verdict)
    assert "1,792 GB/s" in found.because and "15.01 GB" in found.because


def test_a_promise_of_the_first_token() -> None:
    llama = model("llama-3-8b")
    least = ttft_s(llama, RTX_5090, Setting(), Expectations(prompt=8_000))
    assert least == pytest.approx(2 * 6.98e9 * 8_000 / 419e12, rel=0.01)
    assert ttft_s(llama, RTX_5090, Setting(), Expectations(prompt=1)) == pytest.approx(15.01e9 / 1_792e9, rel=0.01)
    for promised, verdict in ((0.1, Verdict.IMPOSSIBLE), (0.5, Verdict.POSSIBLE)):
        (found,) = fit.judge(llama, RTX_5090, Setting(), Expectations(ttft_s=promised, prompt=8_000))
        assert (found.promise, found.verdict) == ("TTFT s", verdict)


def test_a_promise_of_energy_is_at_most_unlikely() -> None:
    for promised, verdict in ((4.0, Verdict.UNLIKELY), (5.0, Verdict.POSSIBLE)):
        (found,) = fit.judge(model("llama-3-8b"), RTX_5090, Setting(), Expectations(joules_per_token=promised))
        assert (found.promise, found.verdict) == ("J/token", verdict)


def test_nothing_is_promised_nothing_is_judged() -> None:
    assert fit.judge(model("llama-3-8b"), RTX_5090, Setting(), Expectations()) == ()


def test_what_an_unknown_architecture_reads_is_unknown() -> None:
    strange = fit.of(
        {"architectures": ["StrangeForCausalLM"], "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}
        | {"vocab_size": 256, "max_position_embeddings": 512},
        fit.Headers(1, 2_000, {"BF16": 1_000}),
    )
    promised = Expectations(tokens_per_s=1.0, ttft_s=1.0, joules_per_token=1.0)
    verdicts = {found.verdict for found in fit.judge(strange, RTX_5090, Setting(), promised)}
    assert verdicts == {Verdict.UNKNOWN}
