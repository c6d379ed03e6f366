"""Reads the JSON body of `generate` and writes its answer: inputs by name, parameters by name, `parameters` flattened.

Statuses and texts are those of Triton 2.51's `generate`, measured on the server; they are odd in places (500 for a body
that is no JSON) and kept, because clients may depend on them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from migrate.gateway.core.described import TensorSpec
from migrate.gateway.core.inference import InferRequest, InferResponse, Parameter
from migrate.gateway.core.json_text import Members, attempt, parse
from migrate.gateway.core.models import Model
from migrate.gateway.core.tensors import Tensor
from migrate.gateway.errors import Code, TritonError, tagged
from migrate.gateway.web import json_tensors


def read(body: bytes, model: Model, version: str = "") -> InferRequest:
    """The request in a body. Raises TritonError."""
    document = parse(body)
    if not isinstance(document, Members):
        raise TritonError(Code.INTERNAL, "attempt to get members for non-object")
    request_id = document.first().get("id", "")
    if not isinstance(request_id, str):
        raise TritonError(Code.INTERNAL, f"Unable to parse 'id': {attempt('string')}")
    inputs, parameters = dict[str, Tensor](), dict[str, Parameter]()
    for name, value, prefix in _flat(document):
        spec = model.inputs.get(name)
        if name in inputs:
            complaint = tagged(request_id, f"input '{name}' already exists in request")
            raise TritonError(Code.INVALID_ARG, prefix + complaint)
        if spec is not None:
            inputs[name] = _tensor(spec, value, is_batched=model.max_batch_size > 0)
        else:
            parameters[name] = _scalar(name, value, prefix)
    return InferRequest(model.name, version, request_id, parameters, tuple(inputs.values()))


def write(response: InferResponse) -> str:
    """The answer: an output of one element as a scalar, longer ones as a flat list, the names sorted as Triton does."""
    answer: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id:
        answer["id"] = response.id
    for tensor in response.outputs:
        values = json_tensors.written(tensor)
        answer[tensor.name] = values[0] if len(values) == 1 else values
    return json.dumps(answer, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _flat(document: Members) -> Iterator[tuple[str, Any, str]]:
    for name, value in document:
        if name == "parameters":
            if not isinstance(value, Members):
                complaint = (
                    "Expected JSON object for keyword: 'parameters': attempt to access JSON non-object as object"
                )
                raise TritonError(Code.INTERNAL, complaint)
            for inner_name, inner_value in value:
                if inner_name != "id":
                    yield inner_name, inner_value, "Converting keyword: 'parameters': "
        elif name != "id":
            yield name, value, ""


def _tensor(spec: TensorSpec, value: Any, *, is_batched: bool) -> Tensor:
    data = json_tensors.flat(value) if isinstance(value, list) else [value]
    shape = _shape(spec, len(data), is_batched)
    return Tensor(spec.name, spec.datatype, shape, json_tensors.values(spec.name, spec.datatype, data))


def _shape(spec: TensorSpec, count: int, is_batched: bool) -> tuple[int, ...]:
    """The shape in which so many elements fit the model's dimensions, of which one may be of any length."""
    dims = [-1, *spec.dims] if is_batched else list(spec.dims)
    if is_batched and -1 in spec.dims:
        dims[0] = 1
    fixed = math.prod(size for size in dims if size >= 0)
    if dims.count(-1) == 1 and fixed and count % fixed == 0:
        dims[dims.index(-1)] = count // fixed
    if math.prod(dims) != count or -1 in dims:
        text = f"The schema can not convert input '{spec.name}' to tensor with proper shape"
        raise TritonError(Code.INVALID_ARG, text)
    return tuple(dims)


def _scalar(name: str, value: Any, prefix: str) -> Parameter:
    if isinstance(value, (str, int, float, bool)):
        return value
    complaint = f"parameter '{name}' has invalid type. It should be either 'int', 'bool', or 'string'."
    raise TritonError(Code.INVALID_ARG, prefix + complaint)
