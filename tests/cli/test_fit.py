import json
from pathlib import Path
from typing import Any

import pytest

from migrate.cli import main

from ..fit.cases import SMALL, case, small_tensors, write_config, write_safetensors

Capture = pytest.CaptureFixture[str]


def code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def written(tmp_path: Path, name: str) -> str:
    return str(write_config(tmp_path, case(name)["config"]))


def test_one_screen_with_a_bar(tmp_path: Path, capsys: Capture) -> None:
    assert code(written(tmp_path, "qwen2.5-7b"), "--card", "rtx-5090") == 0
    out = capsys.readouterr().out
    assert out.startswith("FITS: Qwen2ForCausalLM, 32,768 tokens")
    assert len(out.splitlines()) <= 24 and max(map(len, out.splitlines())) <= 120
    bar = out.splitlines()[2].strip(" []")
    assert len(bar) == 64 and set(bar) == set("█▓▒░")
    assert "one stream gets at most 127 tok/s" in out


def test_what_does_not_fit_says_why_and_what_would(tmp_path: Path, capsys: Capture) -> None:
    assert code(written(tmp_path, "qwen2.5-14b"), "--vram", "32GiB", "--context", "16384") == 3
    out = capsys.readouterr().out
    assert out.startswith("DOES NOT FIT")
    assert "KV cache 3.00 GiB: 31.84 GiB on each GPU" in out
    assert "it would fit with FP8 weights" in out


def test_a_bar_of_what_is_larger_than_the_card(tmp_path: Path, capsys: Capture) -> None:
    assert code(written(tmp_path, "llama-3.1-70b-awq"), "--vram", "8GiB") == 3
    assert len(capsys.readouterr().out.splitlines()[2].strip(" []")) == 64


def test_json_has_the_same(tmp_path: Path, capsys: Capture) -> None:
    assert code(written(tmp_path, "qwen2.5-14b"), "--card", "rtx-5090", "--context", "16384", "--json") == 3
    lines: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["type"] for line in lines] == ["version", "fit"]
    found = lines[1]
    assert (found["fits"], found["cards_needed"], found["model_context"]) == (False, 2, 32_768)
    assert found["bytes"]["kv_per_token"] == 196_608
    assert found["nearest"][0] == "FP8 weights (--quantization fp8)"
    assert found["tokens_per_s_at_most"]["start"] == pytest.approx(64, abs=1)


def test_weights_beside_the_configuration_are_used(tmp_path: Path, capsys: Capture) -> None:
    write_config(tmp_path, SMALL)
    write_safetensors(tmp_path / "model.safetensors", small_tensors())
    assert code(str(tmp_path), "--vram", "8GiB") == 0
    assert "from safetensors headers" in capsys.readouterr().out


def test_a_setting_makes_room(tmp_path: Path) -> None:
    directory = written(tmp_path, "llama-3.1-70b-awq")
    assert code(directory, "--vram", "32GiB", "--context", "8192") == 3
    assert code(directory, "--vram", "32GiB", "--context", "8192", "--tensor-parallel", "2", "--kv-dtype", "fp8") == 0


@pytest.mark.parametrize(
    ("arguments", "expected", "said"),
    [
        ((), 64, "neither --vram nor --card"),
        (("--vram", "lots"), 64, "'lots' is no amount of memory"),
        (("--vram", "32"), 64, "'32' is no amount"),
        (("--card", "rtx-5091"), 64, "rtx-5091"),
        (("--vram", "32GiB", "--utilization", "1.5"), 64, "--utilization 1.5"),
        (("--vram", "32GiB", "--context", "-4"), 64, "--context"),
        (("--vram", "32GiB", "--tensor-parallel", "3"), 64, "28 attention heads"),
        (("--vram", "32GiB", "--kv-dtype", "fp3"), 64, "fp3"),
    ],
)
def test_what_was_typed_wrong(
    tmp_path: Path, capsys: Capture, arguments: tuple[str, ...], expected: int, said: str
) -> None:
    assert code(written(tmp_path, "qwen2.5-7b"), *arguments) == expected
    assert said in capsys.readouterr().err


def test_no_directory_and_no_configuration(tmp_path: Path, capsys: Capture) -> None:
    assert code(str(tmp_path / "nowhere"), "--vram", "32GiB") == 64
    assert code(str(tmp_path), "--vram", "32GiB") == 64
    assert "has no config.json" in capsys.readouterr().err


def test_a_header_that_is_cut_off_is_refused(tmp_path: Path, capsys: Capture) -> None:
    write_config(tmp_path, SMALL)
    (tmp_path / "model.safetensors").write_bytes(b"\x10\x00")
    assert code(str(tmp_path), "--vram", "32GiB") == 3
    assert "header is cut off" in capsys.readouterr().err


def test_a_contradiction_is_refused(tmp_path: Path, capsys: Capture) -> None:
    write_config(tmp_path, SMALL)
    write_safetensors(tmp_path / "model.safetensors", small_tensors(layers=4))
    assert code(str(tmp_path), "--vram", "32GiB") == 3
    assert "config.json contradicts the weights" in capsys.readouterr().err
