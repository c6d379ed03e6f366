"""JSON bodies: refused where Triton 2.51 refuses them, with the words and at the byte that it gave."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.gateway.core import json_text
from migrate.gateway.core.json_text import Members
from migrate.gateway.errors import Code, TritonError

NO_COMMA = "Missing a comma or '}' after an object member."
NO_COMMA_IN_ARRAY = "Missing a comma or ']' after an array element."
SURROGATE = "The surrogate pair in string is invalid."
NOT_AN_ESCAPE = "Invalid escape character in string."


@pytest.mark.parametrize(
    ("body", "reason", "at"),
    [
        ("", "The document is empty.", 0),
        ("  ", "The document is empty.", 2),
        ("{", "Missing a name for object member.", 1),
        ("{a:1}", "Missing a name for object member.", 1),
        ('{"a":1,}', "Missing a name for object member.", 7),
        ('{"a" 1}', "Missing a colon after a name of object member.", 5),
        ('{"a":1 "b":2}', NO_COMMA, 7),
        ('{"a":01}', NO_COMMA, 6),
        ('{"a":[1,2}', NO_COMMA_IN_ARRAY, 9),
        ("[1 2]", NO_COMMA_IN_ARRAY, 3),
        ("[" * 5000, "Invalid value.", 5000),
        ("[1,]", "Invalid value.", 3),
        ('{"a":tru}', "Invalid value.", 8),
        ('{"a":-}', "Invalid value.", 6),
        ("[-Infi]", "Invalid value.", 6),
        ("{} x", "The document root must not be followed by other values.", 3),
        ('{"a":"b', "Missing a closing quotation mark in string.", 7),
        ('{"a":"\\q"}', NOT_AN_ESCAPE, 6),
        ('{"a":"\n"}', NOT_AN_ESCAPE, 6),
        ('{"a":"\\u12"}', "Incorrect hex digit after \\u escape in string.", 6),
        ('{"inputs":[],"id":"\\ud800"}', SURROGATE, 19),
        ('{"a":"\\ud83dx"}', SURROGATE, 6),
        ('{"a":1.}', "Miss fraction part in number.", 7),
        ('{"a":1e}', "Miss exponent in number.", 7),
        ('{"a":1e999}', "Number too big to be stored in double.", 5),
        (b'{"a":"\xff"}', "Invalid encoding in string.", 6),
    ],
)
def test_what_is_no_json(body: str | bytes, reason: str, at: int) -> None:
    with pytest.raises(TritonError) as raised:
        json_text.parse(body.encode() if isinstance(body, str) else body)
    assert raised.value.code is Code.INTERNAL
    assert raised.value.message == f"failed to parse the request JSON buffer: {reason} at {at}"


@pytest.mark.parametrize("end", ["", ",", "\\ud800", '"\\ud800"]'])
def test_a_long_body_that_is_no_json_is_not_read_twice(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "_document", None)
    with pytest.raises(TritonError, match="failed to parse the request JSON buffer: Invalid value. at "):
        json_text.parse(b"[" + b"1," * 40_000 + end.encode())


def test_a_body_of_very_many_values_is_not_read() -> None:
    with pytest.raises(TritonError, match="the JSON of the request has more than 500000 values"):
        json_text.parse(b"[" + b"{}," * 500_001 + b"1]")
    assert json_text.parse(b'"' + b"," * 500_000 + b'"') == "," * 500_000


def test_of_two_members_with_one_name_the_first_counts() -> None:
    assert json_text.members(json_text.parse(b'\xef\xbb\xbf{"a":1,"b":2,"a":3}')) == {"a": 1, "b": 2}
    assert json_text.members(json_text.parse(b"[1]")) == {}


def _plain(value: Any) -> Any:
    if isinstance(value, Members):
        return {name: _plain(inner) for name, inner in value.first().items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.booleans())
def test_what_is_json(document: Any, ascii_only: bool) -> None:
    body = json.dumps(document, ensure_ascii=ascii_only).encode()
    assert _plain(json_text.parse(body)) == document
    assert json_text._document(body) == len(body), "the scanner finds the end of what the parser takes"


@given(JSON.map(lambda document: json.dumps(document).encode()), st.data())
def test_a_torn_body_is_named_inside_it(body: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(body)))
    torn = (
        body[:cut] + data.draw(st.sampled_from([b"", b",", b"}", b"]", b'"', b"\\", b"\x00", b"1"])) + body[cut + 1 :]
    )
    try:
        json_text.parse(torn)
    except TritonError as error:
        assert 0 <= int(error.message.rsplit(" ", 1)[1]) <= len(torn)
        assert "Handler" not in error.message


@given(st.binary(max_size=30))
def test_any_bytes(body: bytes) -> None:
    try:
        json_text.parse(body)
    except TritonError as error:
        assert error.code is Code.INTERNAL
