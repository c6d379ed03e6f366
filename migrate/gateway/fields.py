"""Reads the JSON body of `generate`: inputs by type, request parameters by name, `parameters` flattened.

Statuses and texts are those of Triton 2.51's `generate`, measured on the server; they are odd in places (500 for a body
that is no JSON) and kept, because clients may depend on them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from migrate.gateway.errors import TritonError

_INT32 = range(-(2**31), 2**31)
_NOT_JSON = "failed to parse the request JSON buffer: "


class Kind(Enum):
    """The type of an input; the value is Triton's complaint about anything else."""

    STRING = "Unable to parse JSON bytes array: attempt to access JSON non-string as string"
    INT = "Unable to parse 'data': attempt to access JSON non-signed-integer as signed-integer"
    FLOAT = "Unable to parse 'data': attempt to access JSON non-number as double"
    BOOL = "Unable to parse 'data': attempt to access JSON non-boolean as boolean"


@dataclass(frozen=True, slots=True)
class Fields:
    """One request. `request_id` is empty when none was given; `parameters` are the names that are no input."""

    request_id: str
    inputs: Mapping[str, Any]
    parameters: Mapping[str, str | int | float | bool]

    def text(self, name: str) -> str:
        """A string input that is known to be present."""
        return str(self.inputs[name])


def read(body: bytes, *, model: str, kinds: Mapping[str, Kind]) -> Fields:
    """Read a body for a model with these inputs, of which `text_input` is required. Raises TritonError."""
    document = _document(body)
    request_id = document.pop("id", "")
    if not isinstance(request_id, str):
        raise TritonError(500, "Unable to parse 'id': attempt to access JSON non-string as string")
    inputs: dict[str, Any] = {}
    parameters: dict[str, str | int | float | bool] = {}
    for name, value, prefix in _flat(document):
        if name in inputs or name in parameters:
            raise TritonError(400, f"{prefix}{_tag(request_id)} input '{name}' already exists in request")
        if name in kinds:
            inputs[name] = _convert(name, value, kinds[name])
        else:
            parameters[name] = _scalar(name, value, prefix)
    if "text_input" not in inputs:
        raise TritonError(400, _missing(request_id, model, inputs, len(kinds)))
    return Fields(request_id, inputs, parameters)


def _document(body: bytes) -> dict[str, Any]:
    if not body.strip():
        raise TritonError(500, _NOT_JSON + "The document is empty. at 0")
    try:
        document = json.loads(body, object_pairs_hook=_unique)
        if b"\\u" in body:
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise TritonError(500, _NOT_JSON + "The surrogate pair in string is invalid.") from None
    except json.JSONDecodeError as error:
        raise TritonError(500, f"{_NOT_JSON}{error.msg}. at {error.pos}") from None
    except (ValueError, RecursionError) as error:
        raise TritonError(500, f"{_NOT_JSON}{error}") from None
    if not isinstance(document, dict):
        raise TritonError(500, "attempt to get members for non-object")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise TritonError(400, f"{_tag('')} input '{twice}' already exists in request")
    return members


def _flat(document: Mapping[str, Any]) -> Iterable[tuple[str, Any, str]]:
    for name, value in document.items():
        if name != "parameters":
            yield name, value, ""
            continue
        prefix = "Converting keyword: 'parameters': "
        if not isinstance(value, dict):
            complaint = "Expected JSON object for keyword: 'parameters': attempt to access JSON non-object as object"
            raise TritonError(500, complaint)
        for inner_name, inner_value in value.items():
            yield inner_name, inner_value, prefix


def _convert(name: str, value: Any, kind: Kind) -> Any:
    if isinstance(value, list):
        if len(value) != 1:
            raise TritonError(400, f"The schema can not convert input '{name}' to tensor with proper shape")
        value = value[0]
    match kind:
        case Kind.STRING:
            fits = isinstance(value, str)
        case Kind.BOOL:
            fits = isinstance(value, bool)
        case Kind.INT:
            fits = isinstance(value, int) and not isinstance(value, bool)
        case Kind.FLOAT:
            fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not fits:
        raise TritonError(500, kind.value)
    if kind is Kind.INT and value not in _INT32 or kind is Kind.FLOAT and not _is_finite(value):
        raise TritonError(400, f"the value of input '{name}' is out of range")
    return value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _scalar(name: str, value: Any, prefix: str) -> str | int | float | bool:
    if isinstance(value, (str, int, float, bool)):
        return value
    complaint = f"parameter '{name}' has invalid type. It should be either 'int', 'bool', or 'string'."
    raise TritonError(400, prefix + complaint)


def _missing(request_id: str, model: str, inputs: Mapping[str, Any], most: int) -> str:
    got = ",".join(f"'{name}'" for name in inputs)
    return (
        f"{_tag(request_id)} expected number of inputs between 1 and {most} but got {len(inputs)} inputs for model"
        f" '{model}'. Got input(s) [{got}], but missing required input(s) ['text_input']. Please provide all required"
        " input(s)."
    )


def _tag(request_id: str) -> str:
    return f"[request id: {request_id or '<id_unknown>'}]"
