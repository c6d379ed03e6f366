"""Rewrites the string literals of protobuf's text format (protobuf.dev, "Text Format Language Specification")."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

_TOKEN = re.compile(
    r"#[^\n]*|" + r'"(?:\\.|[^"\\\n])*"|' + r"'(?:\\.|[^'\\\n])*'" + r"|[{}<>\[\],;]|[A-Za-z_]\w*", re.DOTALL
)
_ESCAPE = re.compile(r"\\(x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_CONTROL = {"n": "\n", "t": "\t", "r": "\r"}


class _Literal:
    """One string, written in one or several literals that follow each other."""

    def __init__(self, field: str, start: int) -> None:
        self.field, self.start, self.end = field, start, start
        self.text, self.is_secret = "", False


class _Block:
    """One message: its own `key`, and every other string in it and below it."""

    def __init__(self) -> None:
        self.keys: list[_Literal] = []
        self.others: list[_Literal] = []


def rewritten(
    text: str, *, is_secret: Callable[[str], bool], hashed: Callable[[str], str], searched: Callable[[str], str]
) -> str:
    """In a block whose `key:` is a secret's name every other string is hashed; elsewhere, strings are searched.

    The order of the fields is free. Comments lose their text.
    """
    literals, comments = _read(text, is_secret)
    spans: list[tuple[int, int, str]] = [(start, end, "#") for start, end in comments]
    for one in literals:
        shown = hashed(one.text) if one.is_secret else searched(one.text)
        # A comment within the literals goes with them.
        kept = shown == one.text and not any(one.start < start < one.end for start, _ in comments)
        lines = "\n" * text.count("\n", one.start, one.end)
        spans.append((one.start, one.end, text[one.start : one.end] if kept else f"{_written(shown)}{lines}"))
    pieces, at = [], 0
    for start, end, shown in sorted(spans):
        if start >= at:
            pieces += [searched(text[at:start]), shown]
            at = end
    return "".join([*pieces, searched(text[at:])])


def _read(text: str, is_secret: Callable[[str], bool]) -> tuple[list[_Literal], list[tuple[int, int]]]:
    literals: list[_Literal] = []
    comments: list[tuple[int, int]] = []
    blocks, field, last = [_Block()], "", None
    for token in _TOKEN.finditer(text):
        word = token[0]
        if word[0] == "#":
            comments.append(token.span())
        elif word[0] in "\"'":
            if last is None:
                last = _Literal(field, token.start())
                literals.append(last)
                (blocks[-1].keys if field == "key" else blocks[-1].others).append(last)
            last.text, last.end = last.text + _unescaped(word[1:-1]), token.end()
        else:
            last = None
            field = _enter(word, field, blocks, is_secret)
    while blocks:
        _close(blocks, is_secret)
    for one in literals:
        one.is_secret = one.is_secret or is_secret(one.field)
    return literals, comments


def _enter(word: str, field: str, blocks: list[_Block], is_secret: Callable[[str], bool]) -> str:
    """Opens or closes a block, or is the name of a field, which is given back."""
    if word in "{<":
        blocks.append(_Block())
    elif word in "}>":
        if len(blocks) > 1:
            _close(blocks, is_secret)
    elif word not in "[],;":
        return word
    return field


def _close(blocks: list[_Block], is_secret: Callable[[str], bool]) -> None:
    block = blocks.pop()
    if any(is_secret(key.text) for key in block.keys):
        for one in block.others:
            one.is_secret = True
    if blocks:
        # The shorter list into the longer one: blocks can be deep.
        outer = blocks[-1]
        outer.others, inner = sorted((outer.others, block.others), key=len, reverse=True)
        outer.others += block.keys + inner


def _unescaped(text: str) -> str:
    def character(found: re.Match[str]) -> str:
        said: Any = found[1]
        if said[0] in "xu" and len(said) > 1:
            return chr(int(said[1:], 16))
        return chr(int(said, 8)) if said[0] in "01234567" else _CONTROL.get(said, said)

    return _ESCAPE.sub(character, text)


def _written(text: str) -> str:
    return json.dumps(text.encode(errors="replace").decode(), ensure_ascii=False)
