"""The tables themselves: no row about a field that Triton does not have, and none that can never hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc.model_config_pb2 import ModelConfig

from migrate.gateway.config import StyleName
from migrate.gateway.mapping.styles import INPUTS
from migrate.knowledge import load
from migrate.translate import Outcome, backend, engine, rules
from migrate.translate.records import Draft

PAGE = Path(__file__).parents[2] / "docs" / "translate.md"
BEGIN, END = "<!-- rules -->\n", "<!-- end of rules -->\n"
SECTIONS = ("gone", "renamed")


def field_at(path: str) -> Any:
    """The field that a rule's path ends at; the key of a parameter is Triton's backends' own."""
    descriptor, field = ModelConfig.DESCRIPTOR, None
    for part in path.partition('["')[0].replace("[]", "").split("."):
        field = descriptor.fields_by_name[part]
        descriptor = field.message_type
    return field


@pytest.mark.parametrize("rule", rules.table(), ids=lambda rule: f"{rule.path} {rule.kinds} {rule.values}")
def test_a_rule_is_about_a_field_of_triton(rule: rules.Rule) -> None:
    assert field_at(rule.path) is not None
    assert rule.reason
    assert (rule.outcome is Outcome.MAPPED) == bool(rule.target)
    assert bool(rule.sure) == (rule.outcome is not Outcome.DROPPED)


def test_no_rule_is_hidden_by_an_earlier_one() -> None:
    seen: dict[str, list[rules.Rule]] = {}
    for rule in rules.table():
        for earlier in seen.setdefault(rule.path, []):
            covers_kinds = not earlier.kinds or (rule.kinds and set(rule.kinds) <= set(earlier.kinds))
            assert not (covers_kinds and earlier.values is None), f"{rule.path}: {rule.reason}"
        seen[rule.path].append(rule)


def test_every_field_of_triton_has_a_rule() -> None:
    known = {rule.path.replace("[]", "").partition("[")[0].partition(".")[0] for rule in rules.table()}
    assert {field.name for field in ModelConfig.DESCRIPTOR.fields} <= known


def test_an_engine_argument_is_in_one_list() -> None:
    table = engine.table()
    names = [
        *table["switches"],
        *table["values"],
        *table["gone"],
        *table["renamed"],
        "model",
        "served_model_name",
        "task",
    ]
    assert len(names) == len(set(names))


def test_the_styles_are_the_gateways() -> None:
    styles = backend.table()["styles"]
    assert set(styles["python"]["inputs"]) == INPUTS[StyleName.PYTHON]
    assert set(styles["vllm"]["inputs"]) == INPUTS[StyleName.VLLM]


def test_the_page_shows_the_table() -> None:
    text = PAGE.read_text("utf-8")
    shown = text.partition(BEGIN)[2].partition(END)[0]
    assert shown == rules.as_markdown(rules.table())


def test_the_page_names_every_engine_argument_that_changes() -> None:
    text = PAGE.read_text("utf-8")
    assert [name for section in SECTIONS for name in engine.table()[section] if f"`{name}`" not in text] == []


def test_what_the_server_alone_takes_is_known_to_the_releases_table() -> None:
    flags = load().flags
    server = engine.table()["server"]
    assert [name for name in server if name.replace("_", "-") not in flags] == []
    assert not set(server) & {*engine.table()["switches"], *engine.table()["values"]}


def test_a_dead_argument_names_what_replaces_it() -> None:
    draft = Draft()
    engine.add_engine_arguments(draft, "1/model.json", {"enable_reasoning": True, "eplb_step_interval": 5})
    assert [entry.reason for entry in draft.entries] == [
        "gone in vLLM 0.10.0: reasoning-parser alone",
        "gone in vLLM 0.12.0: eplb-config",
    ]
