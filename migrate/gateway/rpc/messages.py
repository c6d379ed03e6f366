"""Triton's gRPC messages and the gateway's own: requests read, answers written, in the words of Triton 2.51.

The messages are tritonclient's. What each field means: Triton's `src/grpc/infer_handler.cc` and `grpc_utils.cc`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2

from migrate.gateway.core.inference import InferRequest, InferResponse, Parameter
from migrate.gateway.core.tensors import DATATYPES, RawTensor, encode
from migrate.gateway.errors import Code, TritonError, tagged

EMPTY_FINAL = "triton_enable_empty_final_response"
FINAL = "triton_final_response"
INVALID_DATATYPE = "<invalid>"
_Message = TypeVar("_Message")
_VERSION = re.compile(r"\s*([+-]?[0-9]+)", re.ASCII)
_INT64_MAX = 2**63 - 1
_CUSTOM = ("int64_param", "bool_param", "string_param", "double_param")
# Which fields of InferParameter each parameter of Triton's own may come in; the model sees none of these.
_OWN_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "sequence_id": ("int64_param", "string_param"),
    "sequence_start": ("bool_param",),
    "sequence_end": ("bool_param",),
    "priority": ("int64_param", "uint64_param"),
    "timeout": ("int64_param",),
    EMPTY_FINAL: ("bool_param",),
}
# The fields of InferTensorContents: the datatype each is for, and how it is packed; the narrow ones share two of them.
_CONTENTS = {
    "bool_contents": ("BOOL", "?"),
    "int_contents": ("INT32", "i"),
    "int64_contents": ("INT64", "q"),
    "uint_contents": ("UINT32", "I"),
    "uint64_contents": ("UINT64", "Q"),
    "fp32_contents": ("FP32", "f"),
    "fp64_contents": ("FP64", "d"),
    "bytes_contents": ("BYTES", ""),
}
_NARROW = {
    ("int_contents", "INT8"): ("B", 0xFF),
    ("int_contents", "INT16"): ("H", 0xFFFF),
    ("uint_contents", "UINT8"): ("B", 0xFF),
    ("uint_contents", "UINT16"): ("H", 0xFFFF),
}


def parse(kind: type[_Message], data: bytes) -> _Message:
    """The message. Raises TritonError INTERNAL, as Triton's gRPC library does, for bytes that are none."""
    try:
        message: _Message = kind.FromString(data)  # type: ignore[attr-defined]
    except DecodeError:
        raise TritonError(Code.INTERNAL, "Unable to parse request") from None
    return message


def written(message: Any) -> bytes:
    """The message's bytes."""
    return bytes(message.SerializeToString())


def chosen(parameter: Any) -> Any:
    """The value of a parameter message, None where it has none."""
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def version(text: str) -> str:
    """A version as the registry knows it: empty for any, else a number in decimal, read as C's stol reads it.

    Raises TritonError INVALID_ARG.
    """
    if not text:
        return ""
    found = _VERSION.match(text[:64])
    value = int(found[1]) if found else _INT64_MAX + 1
    if not -_INT64_MAX - 1 <= value <= _INT64_MAX:
        complaint = f"failed to get model version from specified version string '{text}' (details: stol),"
        raise TritonError(Code.INVALID_ARG, f"{complaint} version should be an integral value > 0")
    if value < 0:
        complaint = f"invalid model version specified '{text}' , version should be an integral value > 0"
        raise TritonError(Code.INVALID_ARG, complaint)
    return str(value)


def infer_request(message: Any) -> InferRequest:
    """What a ModelInferRequest asks. Raises TritonError for what Triton refuses before its core has seen it."""
    return InferRequest(
        model=message.model_name,
        version=version(message.model_version),
        id=message.id,
        parameters=_parameters(message.parameters) if message.parameters else {},
        inputs=tuple(_inputs(message)),
        outputs=tuple(_outputs(message.outputs)),
    )


def wants_empty_final(message: Any) -> bool:
    """Whether the client asked to be told of the end by a response without outputs, where no other tells it."""
    return EMPTY_FINAL in message.parameters and message.parameters[EMPTY_FINAL].bool_param


def fill(message: Any, response: InferResponse) -> None:
    """Write a response into an empty ModelInferResponse, tensors in binary form: clients read no other reliably."""
    message.model_name, message.model_version, message.id = response.model, response.version, response.id
    for tensor in response.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(encode(tensor))
    for name, value in response.parameters.items():
        _set(message.parameters[name], value)


def stream_response(response: InferResponse, *, is_final: bool) -> bytes:
    """One message of ModelStreamInfer."""
    message = service_pb2.ModelStreamInferResponse()
    fill(message.infer_response, response)
    message.infer_response.parameters[FINAL].bool_param = is_final
    return written(message)


def stream_end(request_id: str, model: str) -> bytes:
    """The response without outputs that says a request is over."""
    message = service_pb2.ModelStreamInferResponse()
    _end(message.infer_response, request_id, model)
    return written(message)


def stream_error(error: TritonError, request_id: str, model: str = "") -> bytes:
    """An error in a stream that stays open; `model` where it is the model that failed, which ends its request."""
    text = error.message.encode("utf-8", "replace").decode("utf-8")
    message = service_pb2.ModelStreamInferResponse(error_message=text)
    if model:
        _end(message.infer_response, request_id, model)
    else:
        message.infer_response.id = request_id
    return written(message)


def _end(message: Any, request_id: str, model: str) -> None:
    message.id, message.model_name = request_id, model
    message.parameters[FINAL].bool_param = True


def _set(parameter: Any, value: Parameter) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = value


def _parameters(given: Any) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        if name in _OWN_PARAMETERS:
            _check_own(name, kind, parameter)
        elif name.startswith("triton_"):
            complaint = "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys"
            raise TritonError(Code.INVALID_ARG, f"{complaint} starting with 'triton_' are allowed: {EMPTY_FINAL}")
        elif kind not in _CUSTOM:
            raise _wrong_parameter(name, "int64_param, bool_param, or string_param")
        else:
            found[name] = getattr(parameter, kind)
    return found


def _check_own(name: str, kind: str | None, parameter: Any) -> None:
    if kind not in _OWN_PARAMETERS[name]:
        raise _wrong_parameter(name, " or ".join(_OWN_PARAMETERS[name]))
    if name == "priority" and parameter.int64_param < 0:
        raise TritonError(Code.INVALID_ARG, "invalid value for 'priority', expected value >= 0.")


def _wrong_parameter(name: str, expected: str) -> TritonError:
    return TritonError(Code.INVALID_ARG, f"invalid value type for '{name}' parameter, expected {expected}.")


def _outputs(outputs: Any) -> Iterable[str]:
    for output in outputs:
        if output.parameters:
            _refuse_shared_memory(output)
            _refuse_classification(output)
        yield output.name


def _refuse_classification(output: Any) -> None:
    if "classification" not in output.parameters:
        return
    parameter = output.parameters["classification"]
    if parameter.WhichOneof("parameter_choice") != "int64_param":
        raise TritonError(Code.INVALID_ARG, "invalid value type for 'classification' parameter, expected int64_param")
    if parameter.int64_param <= 0:
        raise TritonError(Code.INVALID_ARG, "invalid value for 'classification' parameter, expected >= 0")
    raise TritonError(Code.UNSUPPORTED, f"the gateway does not classify: output '{output.name}' asks for it")


def _inputs(message: Any) -> Iterable[RawTensor]:
    _refuse_repeated(message)
    raw, used, model = message.raw_input_contents, 0, message.model_name
    for tensor in message.inputs:
        if tensor.parameters:
            _refuse_shared_memory(tensor)
        if tensor.HasField("contents"):
            if raw:
                complaint = f"contents field must not be specified when using raw_input_contents for '{tensor.name}'"
                raise TritonError(Code.INVALID_ARG, f"{complaint} for model '{model}'")
            data = _packed(tensor, model)
        elif used < len(raw):
            data = raw[used]
            used += 1
        else:
            complaint = f"unable to find data for input tensor '{tensor.name}' for model '{model}' in request."
            raise TritonError(Code.INVALID_ARG, complaint)
        yield RawTensor(tensor.name, _datatype(tensor), tuple(tensor.shape), data)


def _refuse_repeated(message: Any) -> None:
    names = set()
    for tensor in message.inputs:
        if tensor.name in names:
            raise TritonError(Code.INVALID_ARG, tagged(message.id, f"input '{tensor.name}' already exists in request"))
        names.add(tensor.name)


def _datatype(tensor: Any) -> str:
    return tensor.datatype if tensor.datatype in DATATYPES else INVALID_DATATYPE


def _packed(tensor: Any, model: str) -> bytes:
    """Typed contents in binary form; their number is for the engine to check."""
    datatype, data = _datatype(tensor), b""
    for field, (meant, code) in _CONTENTS.items():
        values = getattr(tensor.contents, field)
        if not values:
            continue
        complaint = f"unexpected explicit tensor data for input tensor '{tensor.name}' for model '{model}'"
        if data:
            raise TritonError(Code.INVALID_ARG, f"{complaint}, binary data was already supplied.")
        if (field, datatype) in _NARROW:
            code, mask = _NARROW[field, datatype]
            data = struct.pack(f"<{len(values)}{code}", *(value & mask for value in values))
        elif meant != datatype:
            raise TritonError(Code.INVALID_ARG, f"{complaint} of type '{meant}', expected datatype '{datatype}'")
        elif meant == "BYTES":
            data = b"".join(struct.pack("<I", len(value)) + value for value in values)
        else:
            data = struct.pack(f"<{len(values)}{code}", *values)
    return data


def _refuse_shared_memory(tensor: Any) -> None:
    """No region is ever registered here, so every mention of one is an error; which one, as Triton decides."""
    name, found = tensor.name, {}
    for field, kind in (("region", "string"), ("offset", "int64"), ("byte_size", "int64")):
        key = f"shared_memory_{field}"
        if key not in tensor.parameters:
            continue
        parameter = tensor.parameters[key]
        if parameter.WhichOneof("parameter_choice") != f"{kind}_param":
            complaint = f"invalid value type for '{key}' parameter for tensor '{name}', expected {kind}_param."
            raise TritonError(Code.INVALID_ARG, complaint)
        found[field] = getattr(parameter, f"{kind}_param")
    if "region" in found and "byte_size" in found:
        raise TritonError(Code.NOT_FOUND, f"Unable to find shared memory region: '{found['region']}'")
    if "region" in found:
        complaint = "'shared_memory_byte_size' must be specified along with 'shared_memory_region'"
        raise TritonError(Code.INVALID_ARG, f"{complaint} parameter for tensor '{name}'")
    if "byte_size" in found:
        complaint = "'shared_memory_byte_size' can not be specified without 'shared_memory_region'"
        raise TritonError(Code.INVALID_ARG, f"{complaint} parameter for tensor '{name}'")
