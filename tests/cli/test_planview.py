"""The plan as text: what an operator reads at night."""

from typing import Any

import pytest

from migrate import planner
from migrate.cli.output import Output
from migrate.cli.planview import as_text

from ..core.fakes import facts, gpu_facts, plan
from ..core.test_plan import NOW
from ..core.test_sizing import settings


def text(found: dict[str, Any] | None = None, **changed: Any) -> str:
    return as_text(planner.make("gpu01", settings(**changed), found or gpu_facts(), "t", NOW))


def test_changes_are_grouped_by_kind_and_signed() -> None:
    lines = as_text(plan()).splitlines()
    assert lines.index("packages") < lines.index("images") < lines.index("containers") < lines.index("units")
    assert any(line.startswith("  + vllm: 127.0.0.1:18000") for line in lines)
    assert any(line.startswith("  = Docker engine: kept") for line in lines)
    assert any(line.startswith("  ~ traffic: triton 100 % → vllm 5 %") for line in lines)


def test_a_translated_flag_is_shown_with_source_and_reason_and_the_inventory_s_once() -> None:
    shown = text(vllm_args={"max-num-seqs": 4})
    assert shown.count("--max-num-seqs") == 1
    assert "--max-num-seqs 4  [vllm_args.max-num-seqs = 4: the inventory decides, not 8]" in shown
    assert "--gpu-memory-utilization" in shown


def test_a_model_that_could_move_but_is_not_asked_to_is_named() -> None:
    found = gpu_facts()
    found["triton"]["configs"]["second"] = found["triton"]["configs"]["phi2"] | {"name": "second"}
    shown = text(found)
    assert "second (python): it could move: it is not in triton_models" in shown
    assert "ranker (onnxruntime)" in shown


def test_memory_promises_and_gaps_are_there() -> None:
    shown = text(migrate_expectations=[{"by": "a table", "tokens_per_s": 5000}])
    assert "KV cache" in shown
    assert "5000 tok/s (a table): impossible" in shown
    assert "service gap:        none" in shown
    assert "service gap:        about" in text(gpu_facts("NVIDIA GeForce RTX 5060 Ti", 16311, 10240))


@pytest.mark.parametrize("as_error", [False, True])
def test_nothing_that_a_host_says_reaches_the_terminal_as_an_escape(
    as_error: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    found = facts()
    found["triton"]["configs"]["phi2"]["parameters"] = {"dtype": {"string_value": "\x1b[31mred"}}
    found["triton"]["configs"]["ranker"]["backend"] = "x\x1b[31mbad"
    shown = text(found, vllm_gpus="none")
    assert "\x1b" in shown
    output = Output()
    output.error(shown, shown, 3) if as_error else output.result("plan", {}, shown)
    output.say(shown)
    seen = capsys.readouterr()
    assert "ranker" in seen.out + seen.err
    assert "\x1b[31m" not in seen.out + seen.err
