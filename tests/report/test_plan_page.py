"""The plan as a page: everything that the plan says is on it, and nothing in it is markup."""

from typing import Any

import pytest

from migrate import planner, summary
from migrate.plan import Plan
from migrate.report import render_plan

from ..core.fakes import facts, gpu_facts, plan
from ..core.test_plan import NOW
from ..core.test_sizing import settings


def page(made: Plan) -> str:
    return render_plan(made.as_json(), summary.of(made))


def on_a_card(**changed: Any) -> Plan:
    return planner.make("gpu01", settings(**changed), gpu_facts(), "t", NOW)


@pytest.mark.parametrize(
    "text",
    [
        "container",
        "127.0.0.1:18000",
        "undo_deploy",
        "onnxruntime",
        "--max-num-seqs",
        "KV cache",
        "impossible",
        "a table",
        "sudo /var/lib/migrate/back",
        "gpus.GPU-0",
        "Service gap",
        "80 /v2/",
    ],
)
def test_the_page_has_every_part_of_the_plan(text: str) -> None:
    assert text in page(on_a_card(migrate_expectations=[{"by": "a table", "tokens_per_s": 5000}]))


def test_a_host_without_a_card_or_promises_says_so() -> None:
    text = page(plan())
    assert "KV cache" not in text
    assert "none declared" in text


def test_what_a_host_says_cannot_become_markup() -> None:
    found = facts()
    name = "<script>alert(1)"
    found["triton"]["configs"][name] = found["triton"]["configs"]["ranker"] | {"name": name}
    made = planner.make("gpu01", settings(vllm_gpus="none"), found, "t", NOW)
    assert "<script>" not in page(made)
    assert "&lt;script&gt;" in page(made)


def test_a_swap_shows_both_gaps() -> None:
    swap = gpu_facts("NVIDIA GeForce RTX 5060 Ti", 16311, 10240)
    text = page(planner.make("gpu01", settings(), swap, "t", NOW))
    assert "there," in text
    assert "nobody answers meanwhile" in text
