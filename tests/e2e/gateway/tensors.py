"""Tensors of the table, `[datatype, shape, data]`, as numpy arrays, as Triton's bytes and as protobuf messages."""

from __future__ import annotations

from typing import Any

import numpy as np
from google.protobuf import json_format
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor, triton_to_np_dtype


def array(datatype: str, shape: list[int], data: list[Any]) -> np.ndarray[Any, Any]:
    """The array that a client would pass."""
    if datatype == "BYTES":
        return np.array([_bytes(value) for value in data], dtype=np.object_).reshape(shape)
    return np.array(data, dtype=triton_to_np_dtype(datatype)).reshape(shape)


def raw(datatype: str, data: list[Any]) -> bytes:
    """Triton's binary form; `HEX` takes the bytes as they are."""
    if datatype == "HEX":
        return bytes.fromhex("".join(data))
    values = array(datatype, [len(data)], data)
    if datatype != "BYTES":
        return values.tobytes()
    return bytes(serialize_byte_tensor(values).item()) if data else b""


def values(datatype: str, content: bytes) -> list[Any]:
    """What a client reads out of Triton's binary form."""
    if datatype == "BYTES":
        return [value.decode("utf-8", "backslashreplace") for value in deserialize_bytes_tensor(content)]
    read: list[Any] = np.frombuffer(content, dtype=triton_to_np_dtype(datatype)).tolist()
    return read


def infer_request(body: dict[str, Any]) -> service_pb2.ModelInferRequest:
    """A request in protobuf's JSON, with `tensors` as a short form of inputs that have raw contents."""
    fields = dict(body)
    tensors = fields.pop("tensors", {})
    request = json_format.ParseDict(fields, service_pb2.ModelInferRequest())
    for name, (datatype, shape, data) in tensors.items():
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(raw(datatype, data))
    return request


def infer_response(response: service_pb2.ModelInferResponse) -> dict[str, Any]:
    """A response with its tensors read."""
    seen = json_format.MessageToDict(response, preserving_proto_field_name=True)
    contents = seen.pop("raw_output_contents", [])
    seen["raw"] = len(contents)
    for output, described, content in zip(
        response.outputs, seen.get("outputs", []), response.raw_output_contents, strict=False
    ):
        described["data"] = values(output.datatype, content)
    return seen


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
