"""Reads JSON as Triton does: the same bodies are refused, with the same words and at the same byte.

Triton's parser is RapidJSON: the complaints are those of its `error/en.h`, the positions were measured on Triton 2.51.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from migrate.gateway.errors import Code, TritonError

_NOT_JSON = "failed to parse the request JSON buffer: "
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# A longer body is refused with the parser's own position: to scan it again for Triton's words would hold up everybody.
_MOST_SCANNED = 64 * 1024
# Prompts are long, not many: what has more values would hold up everybody while it is read.
_MOST_VALUES = 500_000
_SPACE = re.compile(rb"[ \t\r\n]*")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_DIGITS = re.compile(rb"[0-9]*")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_HEX = re.compile(rb"[0-9A-Fa-f]{4}")
_LITERALS = {b"t": b"true", b"f": b"false", b"n": b"null", b"N": b"NaN", b"I": b"Inf"}
_UNCLOSED = {
    b"}": "Missing a comma or '}' after an object member.",
    b"]": "Missing a comma or ']' after an array element.",
}


class Members(tuple[tuple[str, Any], ...]):
    """The names and values of a JSON object as they were written, a name that is there twice included."""

    __slots__ = ()

    def first(self) -> dict[str, Any]:
        """As a mapping; of two members with one name RapidJSON finds the first."""
        found = dict(self)
        return found if len(found) == len(self) else dict(reversed(self))


def parse(body: bytes) -> Any:
    """The document, its objects as Members. Raises TritonError, INTERNAL as on Triton for a body that is no JSON."""
    text = body.removeprefix(_BYTE_ORDER_MARK)
    if len(text) > _MOST_VALUES and text.count(b",") > _MOST_VALUES:
        raise TritonError(Code.INVALID_ARG, f"the JSON of the request has more than {_MOST_VALUES} values")
    try:
        document = json.loads(str(text, "utf-8"), object_pairs_hook=Members, parse_float=_finite)
        if _SURROGATE.search(text):
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused("Invalid encoding in string.", error.start) from None
    except (ValueError, RecursionError) as error:
        at = error.pos if isinstance(error, json.JSONDecodeError) else 0
        raise _refused(*(_fault(text) if len(text) <= _MOST_SCANNED else ("Invalid value.", at))) from None
    return document


def members(document: Any) -> dict[str, Any]:
    """The members of an object; none for anything else, in which Triton finds nothing either."""
    return document.first() if isinstance(document, Members) else {}


def attempt(kind: str) -> str:
    """RapidJSON's complaint about a value that is no `kind`, in Triton's words."""
    return f"attempt to access JSON non-{kind} as {kind}"


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(digits)
    return value


def _refused(reason: str, at: int) -> TritonError:
    return TritonError(Code.INTERNAL, f"{_NOT_JSON}{reason} at {at}")


class _Fault(Exception):
    """(reason, byte)."""


def _fault(text: bytes) -> tuple[str, int]:
    try:
        at = _space(text, _document(text))
    except _Fault as fault:
        return fault.args[0], fault.args[1]
    if at < len(text):
        return "The document root must not be followed by other values.", at
    return "Terminate parsing due to Handler error.", at


def _document(text: bytes) -> int:
    """The byte after the first value. The ends of what is open are kept in a list: depth has no limit here."""
    at, ends = _space(text, 0), list[bytes]()
    if at == len(text):
        raise _Fault("The document is empty.", at)
    while True:
        at, opened = _value(text, _space(text, at))
        if opened:
            ends.append(opened)
            continue
        while ends:
            at = _space(text, at)
            if text[at : at + 1] == ends[-1]:
                ends.pop()
                at += 1
                continue
            if text[at : at + 1] != b",":
                raise _Fault(_UNCLOSED[ends[-1]], at)
            at = _name(text, at + 1) if ends[-1] == b"}" else at + 1
            break
        if not ends:
            return at


def _value(text: bytes, at: int) -> tuple[int, bytes]:
    """The byte after a scalar or an empty array or object; else that after the opening, and what will close it."""
    match text[at : at + 1]:
        case b"{":
            inner = _space(text, at + 1)
            return (inner + 1, b"") if text[inner : inner + 1] == b"}" else (_name(text, inner), b"}")
        case b"[":
            inner = _space(text, at + 1)
            return (inner + 1, b"") if text[inner : inner + 1] == b"]" else (inner, b"]")
        case b'"':
            return _string(text, at), b""
        case (b"t" | b"f" | b"n" | b"N" | b"I") as first:
            return _literal(text, at, _LITERALS[first]), b""
        case _:
            return _number(text, at), b""


def _name(text: bytes, at: int) -> int:
    at = _space(text, at)
    if text[at : at + 1] != b'"':
        raise _Fault("Missing a name for object member.", at)
    at = _space(text, _string(text, at))
    if text[at : at + 1] != b":":
        raise _Fault("Missing a colon after a name of object member.", at)
    return at + 1


def _literal(text: bytes, at: int, literal: bytes) -> int:
    for letter in literal:
        if text[at : at + 1] != bytes([letter]):
            raise _Fault("Invalid value.", at)
        at += 1
    if literal == b"Inf" and text[at : at + 1] == b"i":
        return _literal(text, at, b"inity")
    return at


def _number(text: bytes, start: int) -> int:
    at = start + (text[start : start + 1] == b"-")
    if text[at : at + 1] in (b"I", b"N"):
        return _literal(text, at, _LITERALS[text[at : at + 1]])
    end = at + 1 if text[at : at + 1] == b"0" else _digits(text, at, "Invalid value.")
    if text[end : end + 1] == b".":
        end = _digits(text, end + 1, "Miss fraction part in number.")
    if text[end : end + 1] in (b"e", b"E"):
        end += 1 + (text[end + 1 : end + 2] in (b"+", b"-"))
        end = _digits(text, end, "Miss exponent in number.")
    if math.isinf(float(text[start:end])):
        raise _Fault("Number too big to be stored in double.", start)
    return end


def _digits(text: bytes, at: int, complaint: str) -> int:
    end = _end(_DIGITS, text, at)
    if end == at:
        raise _Fault(complaint, at)
    return end


def _string(text: bytes, at: int) -> int:
    at += 1
    while True:
        at = _end(_PLAIN, text, at)
        match text[at : at + 1]:
            case b'"':
                return at + 1
            case b"":
                raise _Fault("Missing a closing quotation mark in string.", at)
            case b"\\" if text[at + 1 : at + 2] == b"u":
                at = _unicode(text, at)
            case b"\\" if text[at + 1 : at + 2] and text[at + 1] in b'"\\/bfnrt':
                at += 2
            case _:
                raise _Fault("Invalid escape character in string.", at)


def _unicode(text: bytes, at: int) -> int:
    digits = _HEX.match(text, at + 2)
    if not digits:
        raise _Fault("Incorrect hex digit after \\u escape in string.", at)
    unit = int(digits[0], 16)
    if not 0xD800 <= unit <= 0xDFFF:
        return digits.end()
    low = _HEX.match(text, digits.end() + 2) if text[digits.end() : digits.end() + 2] == b"\\u" else None
    if unit > 0xDBFF or low is None or not 0xDC00 <= int(low[0], 16) <= 0xDFFF:
        raise _Fault("The surrogate pair in string is invalid.", at)
    return low.end()


def _space(text: bytes, at: int) -> int:
    return _end(_SPACE, text, at)


def _end(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at
