"""Values on their way into flags: texts read as numbers or switches, secrets left out, what no argument can hold."""

from __future__ import annotations

from typing import Any

from migrate.errors import Refused

HIDDEN = "(a secret, not shown)"
_DTYPES = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32", "float": "float32"}


class NotReadable(ValueError):
    """The text is not of the type that the flag takes."""


def read(text: Any, kind: str) -> Any:
    """`text` as "int", "float", "bool", "dtype" or "text". Raises NotReadable."""
    word = str(text).strip()
    if kind in {"int", "float"}:
        try:
            return int(word) if kind == "int" else float(word)
        except ValueError as error:
            raise NotReadable(f"{word!r} is no number") from error
    if kind == "bool":
        return as_switch(word)
    if kind == "dtype":
        name = word.removeprefix("torch.").lower()
        if _DTYPES.get(name, name) not in {"auto", "float16", "bfloat16", "float32"}:
            raise NotReadable(f"{word!r} is no type that --dtype takes")
        return _DTYPES.get(name, name)
    return str(text)


def as_switch(value: Any) -> bool:
    """true and false, also as texts (vllm_backend's tutorial writes "true"). Raises NotReadable."""
    word = str(value).strip().lower()
    if word not in {"true", "false", "1", "0"}:
        raise NotReadable(f"{value!r} is neither true nor false")
    return word in {"true", "1"}


def check_argument(where: str, value: Any) -> Any:
    """`value`, where a process can take it as an argument. Raises Refused for a text with control characters, or with
    half of a surrogate pair, which UTF-8 cannot write."""
    for text in _texts(value):
        bad = [character for character in text if ord(character) < 32 or ord(character) == 127]
        if bad:
            raise Refused(f"{where}: holds the control character {bad[0]!r}", advice="correct the value")
        if halves := [character for character in text if "\ud800" <= character <= "\udfff"]:
            raise Refused(f"{where}: holds half of a character, {halves[0]!r}", advice="correct the value")
    return value


def check_text(where: str, value: Any) -> str:
    """`value` where it is a text that an argument can be. Raises Refused for anything else, and for an empty one."""
    if not isinstance(value, str) or not value:
        raise Refused(f"{where}: {value!r} is no text", advice="correct the value")
    check_argument(where, value)
    return value


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in _texts(item)]
    return [text for item in value for text in _texts(item)] if isinstance(value, list) else []
