"""Tensors, and Triton's binary form of them (Triton's `docs/protocol/extension_binary_data.md`).

Numbers are little-endian, BOOL is one byte, an element of BYTES is its length as uint32 and then its bytes. Errors
are in the words of Triton 2.51, measured on the server.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

from migrate.gateway.errors import Code, TritonError, tagged

_FORMATS = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "BF16": "H",
    "FP32": "f",
    "FP64": "d",
}
DATATYPES = frozenset(_FORMATS) | {"BYTES"}
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Tensor:
    """Values in row-major order, flat: bytes for BYTES, bool for BOOL, int or float for the rest."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: list[Any]


@dataclass(frozen=True, slots=True)
class RawTensor:
    """An input in Triton's binary form; the engine decodes it when name, datatype and shape are known to be right."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | memoryview


def decode(tensor: RawTensor, *, model: str = "", request_id: str = "") -> Tensor:
    """The values of a tensor in binary form; `model` and `request_id` are for the text of an error.

    Raises TritonError INVALID_ARG when the bytes are not exactly those of this datatype and shape.
    """
    name, datatype, count, size = tensor.name, tensor.datatype, math.prod(tensor.shape), len(tensor.raw)
    if datatype == "BYTES":
        values = _strings(tensor, count, model, request_id)
        return Tensor(name, datatype, tensor.shape, values)
    expected = count * byte_size(datatype)
    if size != expected:
        complaint = f"input byte size mismatch for input '{name}' for model '{model}'. Expected {expected}, got {size}"
        raise TritonError(Code.INVALID_ARG, tagged(request_id, complaint))
    return Tensor(name, datatype, tensor.shape, _numbers(datatype, count, tensor.raw))


def encode(tensor: Tensor) -> bytes:
    """The binary form. Raises TritonError INVALID_ARG for a value that the datatype cannot hold."""
    values, datatype = tensor.values, tensor.datatype
    if datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(value)) + value for value in values)
    try:
        if datatype == "BF16":
            values = [_to_bf16(value) for value in values]
        elif datatype in ("FP16", "FP32"):
            values = [_narrow(_FORMATS[datatype], value) for value in values]
        return struct.pack(f"<{len(values)}{_FORMATS[datatype]}", *values)
    except (KeyError, struct.error, OverflowError, TypeError) as error:
        complaint = f"tensor '{tensor.name}' cannot be written as {datatype}: {error}"
        raise TritonError(Code.INVALID_ARG, complaint) from None


def byte_size(datatype: str) -> int:
    """Bytes of one element; 0 for BYTES, whose elements differ. Raises KeyError for an unknown datatype."""
    return 0 if datatype == "BYTES" else struct.calcsize("<" + _FORMATS[datatype])


def float32(value: float) -> float:
    """What is left of a number in 32 bits, infinite where it does not fit: Triton makes -0.1 -0.10000000149011612."""
    return float(struct.unpack("<f", struct.pack("<f", _narrow("f", value)))[0])


def _numbers(datatype: str, count: int, raw: bytes | memoryview) -> list[Any]:
    values = list(struct.unpack(f"<{count}{_FORMATS[datatype]}", raw))
    if datatype == "BF16":
        return [struct.unpack("<f", struct.pack("<I", value << 16))[0] for value in values]
    return values


def _strings(tensor: RawTensor, count: int, model: str, request_id: str) -> list[bytes]:
    raw, values, at = memoryview(tensor.raw), list[bytes](), 0
    where = f"inference input '{tensor.name}' for model '{model}'"
    while at < len(raw):
        if len(raw) - at < _LENGTH.size:
            complaint = (
                f"incomplete string length indicator for {where}, expecting 4 bytes but only {len(raw) - at} bytes"
                " available. Please make sure the string length indicator is in one buffer."
            )
            raise TritonError(Code.INVALID_ARG, tagged(request_id, complaint))
        if len(values) == count:
            complaint = f"unexpected number of string elements {count + 1} for {where}, expecting {count}"
            raise TritonError(Code.INVALID_ARG, tagged(request_id, complaint))
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if length > len(raw) - at:
            complaint = f"expecting string of length {length} but only {len(raw) - at} bytes available"
            text = f"incomplete string data for inference input '{tensor.name}', {complaint}"
            raise TritonError(Code.INVALID_ARG, text)
        values.append(bytes(raw[at : at + length]))
        at += length
    if len(values) != count:
        complaint = f"expected {count} string elements for {where}, got {len(values)}"
        raise TritonError(Code.INVALID_ARG, tagged(request_id, complaint))
    return values


def _narrow(form: str, value: float) -> float:
    try:
        struct.pack("<" + form, value)
    except OverflowError:
        return math.copysign(math.inf, value)
    return value


def _to_bf16(value: float) -> int:
    """The upper half of the 32-bit float, rounded to the nearest, to the even one of two; a NaN stays one."""
    (bits,) = struct.unpack("<I", struct.pack("<f", _narrow("f", value)))
    if math.isnan(value):
        return int(bits >> 16 | 0x40)
    return int((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)
