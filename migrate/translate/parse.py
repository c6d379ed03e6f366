"""Reads a model configuration with protobuf's own parsers, against Triton's own ModelConfig message."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from migrate.errors import Refused

PLACEHOLDER = "${"
_TOKEN = re.compile(r'(?P<text>"(?:[^"\\]|\\.)*")(?P<colon>\s*:)?|[{}]')


def parse(name: str, config: str | Mapping[str, Any]) -> Any:
    """The ModelConfig message of model `name`, from the text of config.pbtxt or from Triton's configuration JSON.

    Raises Refused with file, line and column for text that is none, for fields that are unknown or given twice, and
    for a configuration that calls the model by another name.
    """
    message = _from_text(name, config) if isinstance(config, str) else _from_json(name, config)
    if message.name and message.name != name:
        raise Refused(
            f"{name}/config.pbtxt: name is {message.name!r}, but the model's directory is {name!r}",
            advice="make the two equal, as Triton asks for",
        )
    return message


def as_object(where: str, text: str) -> dict[str, Any]:
    """The JSON object in a file. Raises Refused with line and column where there is none, or a key is there twice."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise Refused(f"{where}:{error.lineno}:{error.colno}: {error.msg}", advice="correct the file") from error
    except (ValueError, RecursionError) as error:
        raise Refused(f"{where}: {error}", advice="correct the file") from error
    if not isinstance(value, dict):
        raise Refused(f"{where}: holds {type(value).__name__}, expected an object", advice="correct the file")
    _refuse_twins(where, text)
    return value


def _from_text(name: str, text: str) -> Any:
    from google.protobuf import text_format  # type: ignore[import-untyped]

    try:
        message = text_format.Parse(text, _message_class()())
        _refuse_repeated_keys(name, text_format.Parse(text, _class_without_maps()()))
    except text_format.ParseError as error:
        line, column = error.GetLine(), error.GetColumn()
        place = "".join(f":{number}" for number in (line, column) if number is not None)
        what = str(error).removeprefix(f"{line}:{column} : ")
        raise Refused(f"{name}/config.pbtxt{place}: {what}", advice=_advice(text, line)) from error
    return message


def _from_json(name: str, config: Mapping[str, Any]) -> Any:
    from google.protobuf import json_format

    try:
        return json_format.ParseDict(dict(config), _message_class()())
    except json_format.ParseError as error:
        raise Refused(
            f"{name}: Triton's configuration JSON: {error}",
            advice="install the tritonclient of the server's release: its ModelConfig message knows the field",
        ) from error


def _advice(text: str, line: int | None) -> str:
    lines = text.splitlines()
    if line is not None and 0 < line <= len(lines) and PLACEHOLDER in lines[line - 1]:
        return "fill the template's ${…} placeholders (TensorRT-LLM backend: tools/fill_template.py)"
    return "correct the file, or look at what Triton serves: GET /v2/models/<model>/config"


def _refuse_twins(where: str, text: str) -> None:
    """Raises Refused for the second of two equal keys of an object in `text`, which is JSON."""
    objects: list[set[str]] = []
    for token in _TOKEN.finditer(text):
        if token[0] == "{":
            objects.append(set())
        elif token[0] == "}":
            objects.pop()
        elif token["colon"]:
            key = json.loads(token["text"])
            if key in objects[-1]:
                line, column = (
                    text.count("\n", 0, token.start()) + 1,
                    token.start() - text.rfind("\n", 0, token.start()),
                )
                raise Refused(f"{where}:{line}:{column}: {key!r} is there twice", advice="keep one")
            objects[-1].add(key)


def _refuse_repeated_keys(name: str, message: Any) -> None:
    for field, key in _repeated_keys(message):
        raise Refused(f"{name}/config.pbtxt: {field} has the key {key!r} twice", advice="keep the last: Triton uses it")


def _repeated_keys(message: Any) -> Iterator[tuple[str, Any]]:
    for descriptor, value in message.ListFields():
        kind = descriptor.message_type
        if kind is None:
            continue
        items = list(value) if descriptor.is_repeated else [value]
        if kind.name.endswith("Entry") and "key" in kind.fields_by_name:
            keys = [item.key for item in items]
            yield from ((descriptor.name, key) for key in sorted({key for key in keys if keys.count(key) > 1}))
        for item in items:
            yield from _repeated_keys(item)


@cache
def _message_class() -> Any:
    # Here, not on top: tritonclient.grpc loads grpc, which a `migrate --help` should not wait for.
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    return ModelConfig


@cache
def _class_without_maps() -> Any:
    """ModelConfig with every map as the list of entries that it is on the wire: maps keep the last of equal keys."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto()
    _message_class().DESCRIPTOR.file.CopyToProto(file)
    for message in file.message_type:
        _forget_maps(message)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(_message_class().DESCRIPTOR.full_name))


def _forget_maps(message: Any) -> None:
    for nested in message.nested_type:
        nested.options.ClearField("map_entry")
        _forget_maps(nested)
