"""Tensors written as JSON: nested arrays of numbers, booleans and strings, with the complaints of Triton 2.51."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from migrate.gateway.core.json_text import attempt
from migrate.gateway.core.tensors import Tensor
from migrate.gateway.errors import Code, TritonError

_RANGES = {f"{sign}{bits}": bits for sign in ("INT", "UINT") for bits in (8, 16, 32, 64)}


def flat(data: list[Any]) -> list[Any]:
    """The elements of nested arrays, in order."""
    if not any(isinstance(value, list) for value in data):
        return data
    found, waiting = list[Any](), [iter(data)]
    while waiting:
        for value in waiting[-1]:
            if isinstance(value, list):
                waiting.append(iter(value))
                break
            found.append(value)
        else:
            waiting.pop()
    return found


def values(name: str, datatype: str, data: Iterable[Any]) -> list[Any]:
    """JSON values as elements of this datatype. Raises TritonError.

    Where Triton would wrap a number around, or make it infinite, it is refused: the model would get another one.
    """
    if datatype == "BYTES":
        return [_bytes(value) for value in data]
    if datatype == "BOOL":
        return [_bool(value) for value in data]
    if datatype in ("FP16", "BF16"):
        text = (
            f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input {name}"
        )
        raise TritonError(Code.INVALID_ARG, text)
    if datatype in ("FP32", "FP64"):
        return [_number(name, value) for value in data]
    lowest, highest = _range(datatype)
    kind = "unsigned-integer" if lowest == 0 else "signed-integer"
    return [_integer(name, value, (lowest, highest), kind) for value in data]


def written(tensor: Tensor) -> list[Any]:
    """The elements as JSON writes them; bytes that are not UTF-8 become replacement characters."""
    if tensor.datatype == "BYTES":
        return [str(value, "utf-8", "replace") for value in tensor.values]
    return tensor.values


def _range(datatype: str) -> tuple[int, int]:
    bits = _RANGES[datatype]
    return (0, 2**bits - 1) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _integer(name: str, value: Any, bounds: tuple[int, int], kind: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _no("data", kind)
    if bounds[0] <= value <= bounds[1]:
        return value
    longest = (0, 2**64 - 1) if bounds[0] == 0 else (-(2**63), 2**63 - 1)
    if not longest[0] <= value <= longest[1]:
        raise _no("data", kind)
    raise _out_of_range(name)


def _number(name: str, value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TritonError(Code.INTERNAL, "Unable to parse 'data': attempt to access JSON non-number as double")
    try:
        if math.isfinite(value):
            return float(value)
    except OverflowError:
        pass
    raise _out_of_range(name)


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _no("data", "boolean")
    return value


def _bytes(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TritonError(Code.INTERNAL, f"Unable to parse JSON bytes array: {attempt('string')}")
    return value.encode("utf-8")


def _no(member: str, kind: str) -> TritonError:
    return TritonError(Code.INTERNAL, f"Unable to parse '{member}': {attempt(kind)}")


def _out_of_range(name: str) -> TritonError:
    return TritonError(Code.INVALID_ARG, f"the value of input '{name}' is out of range")
