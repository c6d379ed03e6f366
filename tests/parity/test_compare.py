from __future__ import annotations

import pytest

from migrate.parity.compare import Answer, Kind, compare

TOPS = ({"1": -0.1}, {"2": -0.5, "3": -0.55, "4": -2.0})


def answer(text: str, *ids: int) -> Answer:
    return Answer(text, ids or None, None, TOPS if ids else None)


@pytest.mark.parametrize(
    ("reference", "other", "kind", "position"),
    [
        (None, answer("a"), Kind.MISSING, None),
        (answer("a"), None, Kind.MISSING, None),
        (answer("a", 1), answer("a", 1, 0), Kind.SAME, None),
        (answer("ab", 1, 3), answer("ac", 1, 2), Kind.TIE, 1),
        (answer("ab", 1, 4), answer("ac", 1, 2), Kind.NEAR, 1),
        (answer("ab", 1, 2), answer("ac", 1, 4), Kind.NEAR, 1),
        (answer("ab", 1, 9), answer("ac", 1, 2), Kind.REAL, 1),
        (answer("ab", 1, 2), answer("ac", 1, 9), Kind.REAL, 1),
        (answer("ab", 1, 2), answer("abc", 1, 2, 3), Kind.LENGTH, 2),
        (answer("", 1), answer("abc", 1, 2), Kind.LENGTH, 1),
        (answer("ab"), answer("ac"), Kind.REAL, 1),
        (answer("ab"), answer("abc"), Kind.LENGTH, 2),
        (answer("say ab"), answer(" ab"), Kind.FORMAT, None),
        (answer("ab "), answer("ab"), Kind.FORMAT, None),
        (answer("a b", 1, 2), answer("ab", 1, 2), Kind.FORMAT, None),
    ],
)
def test_classes(reference: Answer | None, other: Answer | None, kind: Kind, position: int | None) -> None:
    found = compare(reference, other, "say")
    assert (found.kind, found.position) == (kind, position)


@pytest.mark.parametrize(
    "record", [{"text": None, "error": None}, {"text": "a", "error": "HTTP 500"}, {"error": None}, {"text": ["a"]}]
)
def test_a_failed_request_is_no_answer(record: dict[str, object]) -> None:
    assert Answer.of(record) is None
