"""Every field that is set in a ModelConfig message, as a path and a value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Token = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A field that is set: a scalar, a list of scalars, or a message with nothing in it.

    `tokens` are pairs of a field's name and its index: "" for none, `[]` for an element of a list, `["key"]` for an
    entry of a map.
    """

    path: str
    tokens: tuple[Token, ...]
    value: Any

    @property
    def key(self) -> str:
        """The key of the last map on the way, decoded; empty where there is none."""
        keys = [index for _, index in self.tokens if index.startswith('["')]
        return str(json.loads(keys[-1][1:-1])) if keys else ""


def leaves(message: Any) -> Iterator[Leaf]:
    """All fields of `message` that are set, each exactly once, in the order of their field numbers."""
    yield from _of_message(message, "", ())


def _of_message(message: Any, path: str, tokens: tuple[Token, ...]) -> Iterator[Leaf]:
    fields = message.ListFields()
    if not fields and path:
        yield Leaf(path, tokens, {})
    for descriptor, value in fields:
        here = f"{path}.{descriptor.name}" if path else descriptor.name
        yield from _of_field(descriptor, value, here, tokens)


def _of_field(descriptor: Any, value: Any, path: str, tokens: tuple[Token, ...]) -> Iterator[Leaf]:
    kind = descriptor.message_type
    if kind is not None and kind.GetOptions().map_entry:
        in_map = kind.fields_by_name["value"]
        for key in sorted(value, key=str):
            index = f"[{json.dumps(str(key))}]"
            inside = (*tokens, (descriptor.name, index))
            if in_map.message_type is None:
                yield Leaf(path + index, inside, value[key])
            else:
                yield from _of_message(value[key], path + index, inside)
    elif kind is not None and descriptor.is_repeated:
        for number, item in enumerate(value):
            yield from _of_message(item, f"{path}[{number}]", (*tokens, (descriptor.name, "[]")))
    elif kind is not None:
        yield from _of_message(value, path, (*tokens, (descriptor.name, "")))
    else:
        yield Leaf(path, (*tokens, (descriptor.name, "")), _plain(descriptor, value))


def _plain(descriptor: Any, value: Any) -> Any:
    if descriptor.enum_type is not None:
        names = descriptor.enum_type.values_by_number
        return [_name(names, item) for item in value] if descriptor.is_repeated else _name(names, value)
    return list(value) if descriptor.is_repeated else value


def _name(names: Any, number: int) -> str:
    return str(names[number].name) if number in names else str(number)
