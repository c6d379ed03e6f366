"""The comparison itself: what a client could notice is a difference, the last digits of a 32-bit sum are not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.gateway.compare import differences, joined, structure


@pytest.mark.parametrize(
    ("expected", "actual", "path"),
    [
        ({"status": 200}, {"status": 400}, "status"),
        ({"shape": ["1"]}, {"shape": [1]}, "shape.0"),
        ({"count": 1}, {"count": True}, "count"),
        ({"value": 1.0}, {"value": 1}, "value"),
        ({"data": [1]}, {"data": [1, 2]}, "data"),
        ({"id": "a"}, {}, "id"),
        ({}, {"id": "a"}, "id"),
        ({"a": [{"b": "x"}]}, {"a": [{"b": "y"}]}, "a.0.b"),
        ({"log_probs": [-0.5]}, {"log_probs": [-0.51]}, "log_probs.0"),
    ],
)
def test_a_difference_is_found_where_it_is(expected: Any, actual: Any, path: str) -> None:
    assert list(differences(expected, actual)) == [path]


def test_equal_answers_have_none() -> None:
    answer = {"a": [1, "x", None, {"b": 0.5}]}
    assert differences(answer, {"a": [1, "x", None, {"b": 0.5001}]}) == {}


def test_a_structure_keeps_names_and_types_only() -> None:
    assert structure({"n": 5, "list": [{"s": "x"}, {"s": "y"}]}) == {"n": "int", "list": [{"s": "str"}]}


def test_where_a_text_is_cut_is_no_difference_but_its_end_is() -> None:
    def piece(text: str, final: bool) -> dict[str, Any]:
        return {"id": "1", "parameters": {"triton_final_response": final}, "outputs": [{"name": "t", "data": [text]}]}

    one_by_one = joined([piece("a", False), piece("b", False), piece("c", True)])
    assert one_by_one == joined([piece("ab", False), piece("c", True)])
    assert one_by_one["text"] == "abc"
    assert one_by_one != joined([piece("ab", False), piece("c", False)])
    assert one_by_one != joined([piece("ab", False), {"id": "1", "error_message": "gone"}])
