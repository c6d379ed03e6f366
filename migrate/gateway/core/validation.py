"""Checks a request against its model in the order of Triton's core, with its words (2.51, measured on the server)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from migrate.gateway.core.inference import InferRequest
from migrate.gateway.core.models import Model
from migrate.gateway.core.tensors import RawTensor, Tensor, byte_size, decode
from migrate.gateway.errors import Code, TritonError, tagged

Row = Mapping[str, list[Any]]
_BATCH_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each"
    " input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting"
    " max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)


def rows(model: Model, request: InferRequest) -> tuple[Row, ...]:
    """The values of each input, name by name, for each element of the batch; one row for a model without batches.

    Raises TritonError INVALID_ARG.
    """
    for name in request.outputs:
        if name not in model.outputs:
            raise TritonError(Code.INVALID_ARG, f"unexpected inference output '{name}' for model '{model.name}'")
    # Triton keeps inputs in a hash table, whose order is the last one first: with two faults that one is named.
    inputs = {tensor.name: tensor for tensor in reversed(request.inputs)}
    if len(inputs) < len(request.inputs):
        raise _refused(request, f"input '{_twice(request)}' already exists in request")
    _check_count(model, request, inputs)
    for name in inputs:
        if name not in model.inputs:
            raise TritonError(Code.INVALID_ARG, f"unexpected inference input '{name}' for model '{model.name}'")
    batch_size = _batch_size(model, request, inputs) if model.max_batch_size else 1
    for tensor in inputs.values():
        _check_tensor(model, request, tensor)
    decoded = {name: _values(model, request, tensor) for name, tensor in inputs.items()}
    if batch_size == 1:
        return (decoded,)
    sizes = {name: len(values) // batch_size for name, values in decoded.items()}
    return tuple(
        {name: values[row * sizes[name] : (row + 1) * sizes[name]] for name, values in decoded.items()}
        for row in range(batch_size)
    )


def _check_count(model: Model, request: InferRequest, inputs: Mapping[str, Tensor | RawTensor]) -> None:
    required = [name for name, spec in model.inputs.items() if not spec.is_optional]
    if len(required) <= len(inputs) <= len(model.inputs):
        return
    most = len(model.inputs)
    wanted = f"{most} inputs" if len(required) == most else f"number of inputs between {len(required)} and {most}"
    got = ",".join(f"'{name}'" for name in inputs)
    missing = ",".join(f"'{name}'" for name in required if name not in inputs)
    raise _refused(
        request,
        f"expected {wanted} but got {len(inputs)} inputs for model '{model.name}'. Got input(s) [{got}], but missing"
        f" required input(s) {'[' if missing else ''}{missing}]. Please provide all required input(s).",
    )


def _batch_size(model: Model, request: InferRequest, inputs: Mapping[str, Tensor | RawTensor]) -> int:
    sizes = list[int]()
    for name, tensor in inputs.items():
        if not tensor.shape:
            raise _refused(
                request, f"input '{name}' has no shape but model requires batch dimension for '{model.name}'"
            )
        # An empty batch counts as one, so that its bytes are then found to be too few.
        sizes.append(tensor.shape[0] or 1)
        if sizes[0] != sizes[-1]:
            raise _refused(request, f"input '{name}' batch size does not match other inputs for '{model.name}'")
    if sizes and sizes[0] > model.max_batch_size:
        text = f"inference request batch-size must be <= {model.max_batch_size} for '{model.name}'"
        raise _refused(request, text)
    return sizes[0] if sizes else 1


def _check_tensor(model: Model, request: InferRequest, tensor: Tensor | RawTensor) -> None:
    spec, name = model.inputs[tensor.name], tensor.name
    if tensor.datatype != spec.datatype:
        text = f"inference input '{name}' data-type is '{tensor.datatype}', but model '{model.name}' expects"
        raise _refused(request, f"{text} '{spec.datatype}'")
    if any(size < 0 for size in tensor.shape):
        text = f"All input dimensions should be specified for input '{name}' for model '{model.name}'"
        raise _refused(request, f"{text}, got {_shape(tensor.shape)}")
    wanted = (-1, *spec.dims) if model.max_batch_size else spec.dims
    fits = len(wanted) == len(tensor.shape) and all(
        want in (-1, have) for want, have in zip(wanted, tensor.shape, strict=True)
    )
    if not fits:
        text = f"unexpected shape for input '{name}' for model '{model.name}'. Expected {_shape(wanted)}"
        note = _BATCH_NOTE if model.max_batch_size else ""
        raise _refused(request, f"{text}, got {_shape(tensor.shape)}. {note}")


def _values(model: Model, request: InferRequest, tensor: Tensor | RawTensor) -> list[Any]:
    shape = tensor.shape
    if model.max_batch_size:
        shape = (shape[0] or 1, *shape[1:])
    if isinstance(tensor, RawTensor):
        raw = RawTensor(tensor.name, tensor.datatype, shape, tensor.raw)
        return decode(raw, model=model.name, request_id=request.id).values
    if len(tensor.values) != math.prod(shape):
        raise _refused(request, _wrong_count(tensor, math.prod(shape), model.name))
    return tensor.values


def _wrong_count(tensor: Tensor, count: int, model: str) -> str:
    name, size = tensor.name, byte_size(tensor.datatype)
    if size:
        expected, got = count * size, len(tensor.values) * size
        return f"input byte size mismatch for input '{name}' for model '{model}'. Expected {expected}, got {got}"
    where = f"for inference input '{name}' for model '{model}'"
    if len(tensor.values) > count:
        return f"unexpected number of string elements {count + 1} {where}, expecting {count}"
    return f"expected {count} string elements {where}, got {len(tensor.values)}"


def _twice(request: InferRequest) -> str:
    names = [tensor.name for tensor in request.inputs]
    return next(name for name in names if names.count(name) > 1)


def _refused(request: InferRequest, text: str) -> TritonError:
    return TritonError(Code.INVALID_ARG, tagged(request.id, text))


def _shape(dims: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, dims))}]"
