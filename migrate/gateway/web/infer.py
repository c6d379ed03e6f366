"""The body of `infer`, both ways: JSON with tensors in it, or JSON and then the tensors in Triton's binary form.

Statuses and texts are those of Triton 2.51, measured on the server.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from migrate.gateway.core.inference import InferRequest, InferResponse, Parameter
from migrate.gateway.core.json_text import Members, attempt, members, parse
from migrate.gateway.core.models import Model
from migrate.gateway.core.tensors import DATATYPES, RawTensor, Tensor, encode
from migrate.gateway.errors import Code, TritonError, tagged
from migrate.gateway.web import json_tensors

_RESERVED = frozenset({"binary_data_output", "priority", "timeout", "sequence_id", "sequence_start", "sequence_end"})
_SHARED = "shared_memory_region"


@dataclass(frozen=True, slots=True)
class Form:
    """Which outputs a client wants in binary form: `named` where it says so for one, `default` for the rest."""

    default: bool = False
    named: Mapping[str, bool] | None = None

    def is_binary(self, name: str) -> bool:
        """Whether this output goes behind the JSON."""
        return self.named.get(name, False) if self.named else self.default


def read(body: bytes, model: Model, version: str, json_size: int | None) -> tuple[InferRequest, Form]:
    """A request and the form of its answer; the first `json_size` bytes are JSON, all where it is None.

    Without any JSON the body is the model's only input, and all outputs go back in binary form. Raises TritonError.
    """
    size = len(body) if json_size is None else json_size
    if size == 0:
        return _raw(body, model, version), Form(default=True)
    if not 0 < size <= len(body):
        text = f"inference header size should be in range (0, {len(body)}), got: {size}"
        raise TritonError(Code.INVALID_ARG, text)
    document = members(parse(body[:size]))
    request_id = _member(document, "id", str, "string", "") or ""
    parameters, is_binary = _parameters(document.get("parameters", Members()))
    tail = _Tail(memoryview(body)[size:], model.name)
    inputs = tuple(_input(members(entry), tail) for entry in _member(document, "inputs", list, "array"))
    tail.require_end()
    named = _outputs(_member(document, "outputs", list, "array", ()))
    request = InferRequest(model.name, version, request_id, parameters, inputs, tuple(named))
    return request, Form(is_binary, named)


def write(response: InferResponse, form: Form) -> tuple[bytes, int | None]:
    """The body of an answer, and how many of its first bytes are JSON where something follows; else None.

    Raises TritonError for an output that JSON cannot hold.
    """
    answer: dict[str, Any] = {"id": response.id} if response.id else {}
    answer |= {"model_name": response.model, "model_version": response.version}
    if response.parameters:
        answer["parameters"] = dict(response.parameters)
    answer["outputs"], tails = [], list[bytes]()
    has_tail = False
    for tensor in response.outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if form.is_binary(tensor.name):
            tails.append(encode(tensor))
            has_tail = True
            entry["parameters"] = {"binary_data_size": len(tails[-1])}
        else:
            entry["data"] = json_tensors.written(tensor)
        answer["outputs"].append(entry)
    head = json.dumps(answer, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    return (b"".join((head, *tails)), len(head)) if has_tail else (head, None)


class _Tail:
    """The binary tensors behind the JSON, taken in the order of the inputs."""

    def __init__(self, left: memoryview, model: str) -> None:
        self._left = left
        self._model = model

    def take(self, name: str, size: int) -> memoryview:
        if size > len(self._left):
            lacking = size - len(self._left)
            text = f"unexpected size for input '{name}', expecting {lacking} additional bytes for model '{self._model}'"
            raise TritonError(Code.INVALID_ARG, text)
        taken, self._left = self._left[:size], self._left[size:]
        return taken

    def require_end(self) -> None:
        if self._left:
            text = f"unexpected additional input data for model '{self._model}'"
            raise TritonError(Code.INVALID_ARG, text)


def _raw(body: bytes, model: Model, version: str) -> InferRequest:
    specs = list(model.inputs.values())
    if len(specs) != 1:
        text = (
            f"Raw request must only have 1 input (found 1) to be deduced but got {len(specs)} inputs in '{model.name}'"
            " model configuration"
        )
        raise TritonError(Code.INVALID_ARG, tagged("", text))
    spec = specs[0]
    shape = (1, *spec.dims) if model.max_batch_size else spec.dims
    return InferRequest(model.name, version, inputs=(RawTensor(spec.name, spec.datatype, shape, body),))


def _input(entry: Mapping[str, Any], tail: _Tail) -> Tensor | RawTensor:
    parameters = members(entry.get("parameters"))
    _require_one_source(entry, parameters)
    name = _member(entry, "name", str, "string")
    datatype = _member(entry, "datatype", str, "string")
    if datatype not in DATATYPES:
        raise TritonError(Code.INVALID_ARG, f"invalid datatype for input {name}")
    shape = tuple(_unsigned(size, "shape") for size in _member(entry, "shape", list, "array"))
    _require_no_region(parameters)
    if "binary_data_size" in parameters:
        size = _unsigned(parameters["binary_data_size"], "binary_data_size")
        return RawTensor(name, datatype, shape, tail.take(name, size))
    data = json_tensors.flat(_member(entry, "data", list, "array"))
    if datatype != "BYTES" and len(data) != math.prod(shape):
        text = "Unable to parse 'data': Shape does not match true shape of 'data' field"
        raise TritonError(Code.INTERNAL, text)
    return Tensor(name, datatype, shape, json_tensors.values(name, datatype, data))


def _require_one_source(entry: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    found = ["data"] if "data" in entry else []
    found += [name for name in ("binary_data_size", _SHARED) if name in parameters]
    if len(found) == 1:
        return
    got = "But set " + " ".join(f"'{name}'" for name in found) if found else "But no field is set"
    text = "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters',"
    raise TritonError(Code.INVALID_ARG, f"{text} 'shared_memory_region' in 'parameters'. {got}")


def _require_no_region(parameters: Mapping[str, Any]) -> None:
    if _SHARED in parameters:
        region = _member(parameters, _SHARED, str, "string")
        raise TritonError(Code.NOT_FOUND, f"Unable to find shared memory region: '{region}'")


def _outputs(entries: Sequence[Any]) -> dict[str, bool]:
    """Whether each output that is asked for goes back in binary form."""
    named = dict[str, bool]()
    for entry in entries:
        output = members(entry)
        name = _member(output, "name", str, "string")
        parameters = members(output.get("parameters"))
        _require_no_region(parameters)
        if "classification" in parameters and _class_count(parameters["classification"]):
            text = f"output '{name}': classification is not supported by the gateway to vLLM"
            raise TritonError(Code.UNSUPPORTED, text)
        named[name] = bool(_member(parameters, "binary_data", bool, "boolean", False))
    return named


def _class_count(value: Any) -> int:
    if _is_unsigned(value):
        return int(value)
    raise TritonError(Code.INTERNAL, f"Unable to set 'classification': {attempt('unsigned-integer')}")


def _parameters(found: Any) -> tuple[dict[str, Parameter], bool]:
    """Custom parameters, and whether outputs are binary by default; those of sequences and queues change nothing."""
    if not isinstance(found, Members):
        text = "failed to get request params.: attempt to get members for non-object"
        raise TritonError(Code.INTERNAL, text)
    given = found.first()
    for name, value in given.items():
        if name in ("sequence_start", "sequence_end", "binary_data_output"):
            _member(given, name, bool, "boolean")
        elif name in ("priority", "timeout"):
            _unsigned(value, name)
        elif name == "sequence_id" and not isinstance(value, str):
            if not _is_unsigned(value):
                raise _unparsed(name, "string")
        elif name.startswith("triton_"):
            text = "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified."
            raise TritonError(Code.INVALID_ARG, text)
        elif not isinstance(value, (int, float, str, bool)):
            text = f"parameter '{name}' has invalid type. It should be either 'int', 'bool', or 'string'."
            raise TritonError(Code.INVALID_ARG, text)
    custom = {name: value for name, value in given.items() if name not in _RESERVED}
    return custom, bool(given.get("binary_data_output", False))


_REQUIRED = object()


def _member(document: Mapping[str, Any], name: str, kind: type, word: str, default: Any = _REQUIRED) -> Any:
    value = document.get(name, default)
    if value is _REQUIRED:
        text = f"Unable to parse '{name}': attempt to access non-existing object member '{name}'"
        raise TritonError(Code.INTERNAL, text)
    if value is not default and not isinstance(value, kind):
        raise _unparsed(name, word)
    return value


def _unsigned(value: Any, name: str) -> int:
    if not _is_unsigned(value):
        raise _unparsed(name, "unsigned-integer")
    return int(value)


def _is_unsigned(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64


def _unparsed(name: str, word: str) -> TritonError:
    return TritonError(Code.INTERNAL, f"Unable to parse '{name}': {attempt(word)}")
